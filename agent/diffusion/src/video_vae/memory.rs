//! Values that are alive at the fullest moment of decoding pictures: the flow of `decoder.rs` with
//! counts of frames in place of frames.

use kernels::conv::{ConvWeights, Prologue};
use kernels::conv3d::TimePad;

use super::VideoDecoder;
use super::decoder::Layer;
use super::resnet::{Borders, NORM_SILU};
use super::stream::KEPT;

/// Frames of a size that come to a layer.
#[derive(Clone, Copy)]
struct Size {
    frames: usize,
    rows: usize,
    columns: usize,
    channels: usize,
}

impl Size {
    /// Values of `frames` frames of `channels`.
    fn of(&self, frames: usize, channels: usize) -> usize {
        frames * self.rows * self.columns * channels
    }

    /// All of its values.
    fn values(&self) -> usize {
        self.of(self.frames, self.channels)
    }
}

/// What a layer keeps between pieces, in frames.
#[derive(Clone, Copy, Default)]
struct Kept {
    seams: [Option<usize>; 2],
    carried: usize,
    has_begun: bool,
}

impl Kept {
    fn frames(&self) -> usize {
        self.seams.iter().flatten().sum::<usize>() + self.carried
    }
}

/// The decoding under way.
struct Trace<'a> {
    borders: &'a Borders,
    piece: usize,
    /// Values that all layers keep.
    kept: usize,
    peak: usize,
}

impl VideoDecoder {
    /// Peak of [`VideoDecoder::pictures`] in values of activations.
    pub(crate) fn values(&self, [f, rows, columns]: [usize; 3], piece: usize) -> usize {
        let mut trace = Trace {
            borders: self.borders(),
            piece,
            kept: 0,
            peak: 0,
        };
        let latents = Size {
            frames: f,
            rows,
            columns,
            channels: self.layout.latent_channels,
        };
        let mut kept = vec![Kept::default(); self.layers().len()];
        trace.run(self.layers(), &mut kept, latents, true, 0);
        trace.peak
    }
}

impl Trace<'_> {
    /// Values of a convolution's input of `frames` frames and of the copies that it makes.
    fn input(&self, x: Size, frames: usize, weights: &ConvWeights, prologue: Prologue) -> usize {
        let copies = (self.borders).copies(weights, (frames, [x.rows, x.columns]), prologue);
        x.of(frames, x.channels) + copies
    }

    /// `waiting` values lie in front of earlier layers.
    fn run(
        &mut self,
        layers: &[Layer],
        kept: &mut [Kept],
        x: Size,
        are_last: bool,
        waiting: usize,
    ) {
        let (Some((layer, layers)), Some((own, kept))) =
            (layers.split_first(), kept.split_first_mut())
        else {
            // Channels, pixels and levels; the levels are a quarter as large.
            let values = x.values();
            return self.alive(waiting + 2 * values);
        };
        let at_once = layer.frames_at_once(x.rows * x.columns, self.piece);
        if x.frames <= at_once {
            let y = self.push(layer, own, x, are_last, waiting);
            return self.run(layers, kept, y, are_last, waiting);
        }
        let waiting = waiting + x.values();
        let mut done = 0;
        while done < x.frames {
            let frames = at_once.min(x.frames - done);
            done += frames;
            let are_last = are_last && done == x.frames;
            let y = self.push(layer, own, Size { frames, ..x }, are_last, waiting);
            self.run(layers, kept, y, are_last, waiting);
        }
    }

    fn alive(&mut self, working: usize) {
        self.peak = self.peak.max(self.kept + working);
    }

    /// Frames that a convolution is given and those that it answers for.
    fn seam(&self, seam: &mut Option<usize>, frames: usize, are_last: bool) -> (usize, usize) {
        let (mut before, mut after) = if self.borders.time == TimePad::Causal {
            (KEPT, 0)
        } else {
            (1, 1)
        };
        if seam.is_some() || frames == 0 {
            before = 0;
        }
        if !are_last || (seam.is_none() && frames == 0) {
            after = 0;
        }
        let given = before + seam.unwrap_or(0) + frames + after;
        *seam = (!are_last && given > 0).then_some(given.min(KEPT));
        (given, given.saturating_sub(KEPT))
    }

    /// A layer at work on a piece; gives what it hands on.
    fn push(
        &mut self,
        layer: &Layer,
        kept: &mut Kept,
        x: Size,
        are_last: bool,
        waiting: usize,
    ) -> Size {
        let before = x.of(kept.frames(), x.channels);
        let (given, first) = self.seam(&mut kept.seams[0], x.frames, are_last);
        let (weights, prologue) = match layer {
            Layer::Conv(weights, prologue) => (weights, *prologue),
            Layer::Resnet(resnet) => (resnet.convolutions()[0], NORM_SILU),
            Layer::Up(up) => (&up.conv, Prologue::None),
        };
        let convolving = x.values() + self.input(x, given, weights, prologue);
        let next = match layer {
            Layer::Conv(weights, _) => {
                let channels = weights.out_channels();
                self.alive(waiting + convolving + x.of(first, channels));
                Size {
                    frames: first,
                    channels,
                    ..x
                }
            }
            Layer::Resnet(resnet) => {
                self.alive(waiting + convolving + x.of(first, x.channels));
                let (given, second) = self.seam(&mut kept.seams[1], first, are_last);
                // Carried, the first convolution's output, the second's input and output.
                let input = self.input(x, given, resnet.convolutions()[1], NORM_SILU);
                let working = x.of(x.frames + first + second, x.channels) + input;
                self.alive(waiting + working);
                kept.carried += x.frames;
                kept.carried -= second;
                Size {
                    frames: second,
                    ..x
                }
            }
            Layer::Up(up) => {
                let (deep, [st, sh, sw]) = (up.conv.out_channels(), up.strides);
                self.alive(waiting + convolving + x.of(first, deep));
                self.alive(waiting + x.values() + 2 * x.of(first, deep));
                if up.residual {
                    kept.carried += x.frames;
                    kept.carried -= first;
                }
                let dropped = if kept.has_begun || first == 0 {
                    0
                } else {
                    st - 1
                };
                kept.has_begun |= first > 0;
                Size {
                    frames: first * st - dropped,
                    rows: x.rows * sh,
                    columns: x.columns * sw,
                    channels: deep / (st * sh * sw),
                }
            }
        };
        self.kept = self.kept - before + x.of(kept.frames(), x.channels);
        next
    }
}
