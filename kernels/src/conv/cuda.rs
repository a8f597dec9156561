//! Every convolution on a GPU, as an implicit product: with mma.sync and borders by arithmetic anywhere,
//! with wgmma and TMA on compute capability 9.0.

use crate::KernelError;
use crate::conv3d::TimePad;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch, MapShape};
use crate::linear::cuda::{TILE, TILE_SHARED_BYTES};
use crate::modulation::cuda::module_of;
use crate::space_depth::cuda::mirror_border;

use super::SpacePad;

/// Which kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// mma.sync: any card, any convolution.
    Mma,
    /// wgmma and TMA: compute capability 9.0, see [`on_hopper`].
    Hopper,
}

/// Fewest output channels for which tiles of 128 are worth their empty part.
const HOPPER_OUT_MIN: usize = 64;
/// Fewest input channels for which a step of 64 is.
const HOPPER_IN_MIN: usize = 32;

/// Whether wgmma and TMA can do it: stride 1, no dilation, channels in steps of 8. What is mirrored outside
/// is written around a copy first, so borders must be alike on both sides and thinner than the picture.
fn on_hopper(gpu: &Gpu, weights: &DeviceConv, geometry: &Geometry) -> bool {
    is_tiled_on_hopper(gpu, weights)
        && geometry.stride == [1; 3]
        && geometry.dilation == 1
        && (geometry.space == SpacePad::Zero || weights.is_centred(geometry))
}

/// Whether the card has wgmma and TMA and the channels fill their tiles.
pub(super) fn is_tiled_on_hopper(gpu: &Gpu, weights: &DeviceConv) -> bool {
    let [out, _, inner] = [0, 1, 2].map(|dim| weights.weights.dims()[dim]);
    gpu.card().is_hopper()
        && inner.is_multiple_of(8)
        && inner >= HOPPER_IN_MIN
        && out >= HOPPER_OUT_MIN
}

/// The fastest path that a card and a convolution allow.
pub fn best_path(gpu: &Gpu, weights: &DeviceConv, geometry: &Geometry) -> Path {
    match on_hopper(gpu, weights, geometry) {
        true => Path::Hopper,
        false => Path::Mma,
    }
}

/// Weights of a convolution: BF16 [out, position, in] and F32 [out].
#[derive(Debug, Clone)]
pub struct DeviceConv {
    weights: Array,
    bias: Option<Array>,
    kernel: [usize; 3],
}

impl DeviceConv {
    /// Uploads `weight` [out, in, kernel positions], as files have it, turned round.
    ///
    /// # Errors
    /// [`KernelError::Shape`], and what an upload gives.
    pub fn upload(
        gpu: &Gpu,
        weight: &[f32],
        [out_channels, in_channels]: [usize; 2],
        kernel: [usize; 3],
        bias: Option<&[f32]>,
    ) -> Result<Self, KernelError> {
        let taps: usize = kernel.iter().product();
        if weight.len() != out_channels * in_channels * taps {
            return Err(KernelError::shape(
                "conv",
                "weight",
                [out_channels, in_channels, taps],
                [weight.len()],
            ));
        }
        let zeros = vec![0.0; out_channels];
        let bias = bias.unwrap_or(&zeros);
        let value = |out, tap, channel| weight[(out * in_channels + channel) * taps + tap];
        Self::of_values(gpu, kernel, in_channels, bias, value)
    }

    /// Uploads `value(output channel, kernel position, input channel)`.
    ///
    /// # Errors
    /// What an upload gives.
    pub(crate) fn of_values(
        gpu: &Gpu,
        kernel: [usize; 3],
        in_channels: usize,
        bias: &[f32],
        value: impl Fn(usize, usize, usize) -> f32,
    ) -> Result<Self, KernelError> {
        let (out_channels, taps) = (bias.len(), kernel.iter().product::<usize>());
        let row = taps * in_channels;
        let at = |i: usize| value(i / row, i / in_channels % taps, i % in_channels);
        let turned: Vec<f32> = (0..out_channels * row).map(at).collect();
        Ok(Self {
            weights: gpu.upload(Element::BF16, &[out_channels, taps, in_channels], &turned)?,
            bias: Some(gpu.upload(Element::F32, &[out_channels], bias)?),
            kernel,
        })
    }
}

impl DeviceConv {
    /// Whether height and width have half a kernel of border on each side.
    fn is_centred(&self, geometry: &Geometry) -> bool {
        (1..3).all(|dim| 2 * geometry.before[dim] + 1 == self.kernel[dim])
    }

    /// Number of output channels.
    pub fn out_channels(&self) -> usize {
        self.weights.dims()[0]
    }

    /// Values that one output is a sum over.
    pub(crate) fn inner(&self) -> usize {
        self.weights.dims()[1] * self.weights.dims()[2]
    }
}

/// Where a convolution's output lies over its input. All in (time, height, width).
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// Input positions between outputs.
    pub stride: [usize; 3],
    /// Positions between neighbouring taps along the width.
    pub dilation: usize,
    /// Border before the first position.
    pub before: [usize; 3],
    /// Size of the output.
    pub out: [usize; 3],
    /// What lies outside in time.
    pub time: TimePad,
    /// What lies outside in space.
    pub space: SpacePad,
}

/// Convolves x BF16 [batch, time, height, width, in] into out F32 or BF16, adding `residual` of the type
/// and shape of out when given.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn conv(
    gpu: &Gpu,
    x: &Array,
    weights: &DeviceConv,
    geometry: Geometry,
    residual: Option<&Array>,
    out: &Array,
) -> Result<(), KernelError> {
    let path = best_path(gpu, weights, &geometry);
    conv_on(gpu, path, x, weights, geometry, residual, out)
}

const OP: &str = "conv";

/// As [`conv`], by a path of the caller's choice.
///
/// # Errors
/// As [`conv`]; [`KernelError::Unsupported`] for what the path does not have.
pub fn conv_on(
    gpu: &Gpu,
    path: Path,
    x: &Array,
    weights: &DeviceConv,
    geometry: Geometry,
    residual: Option<&Array>,
    out: &Array,
) -> Result<(), KernelError> {
    let [out_channels, _, in_channels] = *weights.weights.dims() else {
        return Err(KernelError::shape(
            OP,
            "weights",
            "3 dimensions",
            weights.weights.dims(),
        ));
    };
    let [batch, t, h, w, _] = *x.dims() else {
        return Err(KernelError::shape(OP, "x", "5 dimensions", x.dims()));
    };
    x.expect(OP, "x", Element::BF16, &[batch, t, h, w, in_channels])?;
    let [out_t, out_h, out_w] = geometry.out;
    out.expect(
        OP,
        "out",
        out.element(),
        &[batch, out_t, out_h, out_w, out_channels],
    )?;
    if let Some(residual) = residual {
        residual.expect(OP, "residual", out.element(), out.dims())?;
    }
    let rows = batch * out_t * out_h * out_w;
    if rows > u32::MAX as usize / 2 {
        return Err(KernelError::unsupported(
            OP,
            format!("{rows} positions at once: decode in tiles"),
        ));
    }
    let work = Work {
        x,
        weights,
        geometry,
        residual,
        out,
    };
    match path {
        Path::Mma => mma(gpu, &work),
        Path::Hopper if !on_hopper(gpu, weights, &geometry) => Err(KernelError::unsupported(
            OP,
            "this convolution through wgmma",
        )),
        Path::Hopper if geometry.space == SpacePad::Zero => hopper(gpu, &work),
        Path::Hopper => {
            let [time, rows, columns] = geometry.before;
            let framed = gpu.empty(
                Element::BF16,
                &[batch, t, h + 2 * rows, w + 2 * columns, in_channels],
            )?;
            mirror_border(gpu, x, [rows, columns], &framed)?;
            let geometry = Geometry {
                before: [time, 0, 0],
                ..geometry
            };
            hopper(
                gpu,
                &Work {
                    x: &framed,
                    geometry,
                    ..work
                },
            )
        }
    }
}

/// Operands whose shapes have been checked.
struct Work<'a> {
    x: &'a Array,
    weights: &'a DeviceConv,
    geometry: Geometry,
    residual: Option<&'a Array>,
    out: &'a Array,
}

impl Work<'_> {
    /// What both kernels take after their inputs: bias, residual, output, shape.
    fn ending(&self, inputs: Arguments, words: &[usize]) -> Arguments {
        let words: Vec<u32> = words.iter().map(|word| *word as u32).collect();
        inputs
            .maybe(self.weights.bias.as_ref())
            .maybe(self.residual)
            .array(self.out)
            .words(&words)
    }
}

fn mma(gpu: &Gpu, work: &Work<'_>) -> Result<(), KernelError> {
    let Work {
        x, weights, out, ..
    } = work;
    let rows = out.row_count();
    let Geometry {
        stride,
        dilation,
        before,
        time,
        space,
        ..
    } = work.geometry;
    let mut words = [x.dims(), &out.dims()[1..]].concat();
    words.extend(weights.kernel);
    words.extend(stride);
    words.push(dilation);
    words.extend(before);
    words.extend([
        usize::from(time == TimePad::Zero),
        usize::from(space == SpacePad::Reflect),
    ]);
    gpu.launch(&Launch {
        module: module_of(OP, ["conv_bf16", "conv_f32"], out.element())?,
        entry: OP,
        blocks: [
            (rows.div_ceil(TILE) * weights.out_channels().div_ceil(TILE)) as u32,
            1,
            1,
        ],
        threads: 256,
        shared_bytes: TILE_SHARED_BYTES,
        arguments: work.ending(Arguments::new().array(x).array(&weights.weights), &words),
    })
}

/// Stages of a Hopper tile and their bytes: 64 channels of positions and of weights, 384 rows together.
const HOPPER_SHARED_BYTES: u32 = 4 * 384 * 128 + 1024 + 128;

/// Width and height of a tile of `count` positions, a power of two, that leaves the least of a frame of
/// `width` x `height` over; the widest of those.
fn tile_of(count: usize, width: usize, height: usize) -> [usize; 2] {
    (0..=count.ilog2())
        .map(|log| [count >> log, 1 << log])
        .min_by_key(|[w, h]| width.div_ceil(*w) * w * height.div_ceil(*h) * h)
        .unwrap_or([count, 1])
}

fn hopper(gpu: &Gpu, work: &Work<'_>) -> Result<(), KernelError> {
    let Work {
        x,
        weights,
        geometry,
        out,
        ..
    } = work;
    let ([out_channels, taps, inner], [batch, in_t, in_h, in_w, _]) = (
        [0, 1, 2].map(|dim| weights.weights.dims()[dim]),
        [0, 1, 2, 3, 4].map(|dim| x.dims()[dim]),
    );
    let [out_t, out_h, out_w] = geometry.out;
    let wide = out_channels.is_multiple_of(256) || out_channels > 512;
    let (modules, positions, channels) = match wide {
        true => (["conv_hopper_wide_bf16", "conv_hopper_wide_f32"], 128, 256),
        false => (["conv_hopper_tall_bf16", "conv_hopper_tall_f32"], 256, 128),
    };
    let [tile_w, tile_h] = tile_of(positions, out_w, out_h);
    let (tiles_w, tiles_h) = (out_w.div_ceil(tile_w), out_h.div_ceil(tile_h));
    let tiles_n = out_channels.div_ceil(channels);
    let tiles = batch * out_t * tiles_h * tiles_w * tiles_n;
    let row = inner as u64 * 2;
    let positions_map = MapShape {
        address: x.address(),
        sizes: [inner, in_w, in_h, in_t, batch]
            .map(|size| size as u64)
            .to_vec(),
        strides: [1, in_w, in_w * in_h, in_w * in_h * in_t]
            .map(|pixels| pixels as u64 * row)
            .to_vec(),
        tile: vec![64, tile_w as u32, tile_h as u32, 1, 1],
    };
    let weights_map = MapShape {
        address: weights.weights.address(),
        sizes: [inner, taps, out_channels, 1]
            .map(|size| size as u64)
            .to_vec(),
        strides: [1, taps, taps * out_channels]
            .map(|rows| rows as u64 * row)
            .to_vec(),
        tile: vec![64, 1, channels as u32, 1],
    };
    let mut words = vec![in_t, inner.div_ceil(64), out_t, out_h, out_w, out_channels];
    words.extend(weights.kernel);
    words.extend(geometry.before);
    words.push(usize::from(geometry.time == TimePad::Zero));
    words.extend([tile_w, tiles_w, tiles_h, tiles_n, tiles]);
    gpu.launch(&Launch {
        module: module_of(OP, modules, out.element())?,
        entry: "conv_hopper",
        blocks: [(tiles as u32).min(gpu.card().multiprocessors), 1, 1],
        threads: 384,
        shared_bytes: HOPPER_SHARED_BYTES,
        arguments: work.ending(
            Arguments::new()
                .bytes(gpu.map(&positions_map)?)
                .bytes(gpu.map(&weights_map)?),
            &words,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::tile_of;

    #[test]
    fn a_tile_covers_a_frame_with_little_left_over() {
        assert_eq!(tile_of(128, 24, 16), [8, 16]);
        assert_eq!(tile_of(128, 384, 256), [128, 1]);
        assert_eq!(tile_of(128, 50, 1), [128, 1]);
    }
}
