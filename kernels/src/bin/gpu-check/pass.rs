//! One pass of a 48-block LTX-2 transformer of 19 B parameters, as a trace of ops with random weights: what
//! a denoising step costs at the sizes that people ask for, without 38 GB of real weights at hand.

use std::error::Error;

use serde_json::{Value, json};

use kernels::KernelError;
use kernels::attention::cuda::{DeviceMask, Inputs, attention, best_path};
use kernels::attention::{Heads, Mask};
use kernels::cuda::{After, Array, Blas, Element, Gpu, Graph, Timer};
use kernels::linear::cuda::{DeviceEpilogue, linear};
use kernels::modulation::cuda::{DeviceRows, gated_residual, head_gate};
use kernels::norm::{
    Norm,
    cuda::{DeviceModulation, norm_modulate},
};
use kernels::rope::cuda::{Columns, DeviceQkNorm, DeviceTable, qk_norm_rope};
use kernels::rope::{Layout, plain_table};

use crate::bench::{blas, random};
use crate::child::{Card, say};

const BLOCKS: usize = 48;
const HEADS: usize = 32;
/// Sizes of films, and the frames, rows and columns of their pictures' tokens.
const SIZES: [(&str, [usize; 3]); 2] = [
    ("768x512x121", [16, 16, 24]),
    ("1280x704x121", [16, 22, 40]),
];
/// Width of the picture's tokens.
const WIDTH: usize = 4096;
/// Tokens of the sound, and their width.
const AUDIO: (usize, usize) = (126, 2048);
/// Tokens of the text.
const TEXT: usize = 1024;
/// bf16 TFLOP/s that the maker names for an H100 or H200.
const PEAK_TFLOPS: f64 = 989.0;
/// Memory that must be left beside the weights, in bytes.
const SPARE_BYTES: u64 = 4 << 30;

/// Everything that does not differ between blocks.
struct Trace<'a> {
    gpu: &'a Gpu,
    blas: Option<Blas>,
    video: Stream,
    audio: Stream,
    text: [Array; 2],
    flop: std::cell::Cell<f64>,
}

/// One modality: its state, its scratch and its tables.
struct Stream {
    tokens: usize,
    width: usize,
    state: Array,
    normal: Array,
    packed: Array,
    crossed: Array,
    output: Array,
    product: Array,
    inner: Array,
    /// Keys and values of the text.
    text: Array,
    logits: Array,
    table: Array,
    bias: Array,
    rope: DeviceTable,
}

impl Stream {
    fn new(gpu: &Gpu, (tokens, width): (usize, usize)) -> Result<Self, KernelError> {
        let array = |columns: usize| random(gpu, Element::BF16, &[tokens, columns], columns as u32);
        Ok(Self {
            tokens,
            width,
            state: array(width)?,
            normal: array(width)?,
            packed: array(3 * width)?,
            crossed: array(2 * AUDIO.1)?,
            output: array(width)?,
            product: array(width)?,
            inner: array(4 * width)?,
            text: random(gpu, Element::BF16, &[TEXT, 2 * width], 8)?,
            logits: array(HEADS)?,
            table: random(gpu, Element::F32, &[1, 9, width], 9)?,
            bias: gpu.filled(Element::F32, &[4 * width], 0)?,
            rope: DeviceTable::upload(gpu, &plain_table(tokens, width / HEADS, 1e4, 1.0)?)?,
        })
    }

    fn rows(&self, slot: usize) -> DeviceRows<'_> {
        DeviceRows {
            table: &self.table,
            slot,
            groups: None,
        }
    }

    /// The first `columns` columns' worth of an array, as [tokens, columns].
    fn part(&self, array: &Array, columns: usize) -> Result<Array, KernelError> {
        array.part(0, &[self.tokens, columns])
    }
}

/// Weights of one block: matrices that are taken one after the other from a large array.
struct Weights<'a> {
    all: &'a Array,
    at: std::cell::Cell<usize>,
}

impl Weights<'_> {
    fn matrix(&self, n: usize, k: usize) -> Result<Array, KernelError> {
        let at = self.at.get();
        self.at.set(at + n * k);
        self.all.part(at, &[n, k])
    }
}

/// Parameters of a block.
fn block_parameters() -> usize {
    let (d, a) = (WIDTH, AUDIO.1);
    // Self- and text attention and feed-forward, then both directions between the streams, then head gates.
    16 * (d * d + a * a)
        + (a * d + 2 * a * a + d * a)
        + (a * a + 2 * a * d + a * a)
        + 4 * HEADS * (d + a)
}

/// Runs it.
///
/// # Errors
/// When the card refuses.
pub fn run(card: &Card) -> Result<(), Box<dyn Error>> {
    let bytes = (BLOCKS * block_parameters() * 2) as u64;
    let free = card.driver.free_bytes()?;
    if bytes + SPARE_BYTES > free {
        say(
            json!({"kind": "skipped", "why": format!("pass: {bytes} bytes of weights, {free} bytes free")}),
        );
        return Ok(());
    }
    let gpu = &card.gpu;
    let weights = gpu.empty(Element::BF16, &[BLOCKS, block_parameters()])?;
    kernels::copy::cuda::random_fill(gpu, &weights, 1, 0.02)?;
    SIZES
        .iter()
        .try_for_each(|size| one_size(card, &weights, *size))
}

/// What the comparison with diffusers needs.
pub fn torch_sizes() -> Value {
    json!({"sizes": SIZES, "audio": AUDIO.0, "text": TEXT})
}

fn one_size(
    card: &Card,
    weights: &Array,
    (size, grid): (&str, [usize; 3]),
) -> Result<(), Box<dyn Error>> {
    let gpu = &card.gpu;
    let text = [WIDTH, AUDIO.1].map(|width| random(gpu, Element::BF16, &[TEXT, width], 3));
    let [video_text, audio_text] = text;
    let trace = Trace {
        gpu,
        blas: blas(card)?,
        video: Stream::new(gpu, (grid.iter().product(), WIDTH))?,
        audio: Stream::new(gpu, AUDIO)?,
        text: [video_text?, audio_text?],
        flop: std::cell::Cell::new(0.0),
    };
    let one_pass = || {
        let weights = Weights {
            all: weights,
            at: std::cell::Cell::new(0),
        };
        trace.flop.set(0.0);
        (0..BLOCKS).try_for_each(|_| trace.block(&weights))
    };
    one_pass()?;
    gpu.synchronise()?;
    let timer = Timer::new(&card.driver)?;
    let eager = timer.time(one_pass)?;
    let graph = Graph::record(&card.driver, one_pass)?;
    graph.launch()?;
    let mut times = (0..10)
        .map(|_| timer.time(|| graph.launch()))
        .collect::<Result<Vec<_>, _>>()?;
    times.sort_by(f32::total_cmp);
    let (ms, flop) = (times[times.len() / 2], trace.flop.get());
    say(json!({
        "kind": "pass", "name": "pass", "shape": size, "ms": ms, "ms_spread": times[times.len() - 1] - times[0],
        "eager_ms": eager, "tflop": flop / 1e12, "mfu": flop / f64::from(ms) / 1e9 / PEAK_TFLOPS,
        "products": if trace.blas.is_some() { "cublasLt" } else { "own" },
        "attention": format!("{:?}", best_path(gpu, WIDTH / HEADS, Mask::None)), "blocks": BLOCKS,
    }));
    Ok(())
}

impl Trace<'_> {
    fn count(&self, flop: usize) {
        self.flop.set(self.flop.get() + flop as f64);
    }

    /// y = x W^T: cublasLt where it is, our own kernel elsewhere.
    fn product(
        &self,
        weights: &Weights<'_>,
        x: &Array,
        gelu: bool,
        bias: &Array,
        y: &Array,
    ) -> Result<(), KernelError> {
        let (m, n, k) = (x.row_count(), y.last_dim(), x.last_dim());
        let w = weights.matrix(n, k)?;
        self.count(2 * m * n * k);
        match &self.blas {
            Some(blas) => blas.linear(
                x,
                &w,
                None,
                if gelu { After::Gelu } else { After::Nothing },
                y,
            ),
            None => {
                let epilogue = if gelu {
                    DeviceEpilogue::GeluTanh
                } else {
                    DeviceEpilogue::None
                };
                linear(self.gpu, x, &w, Some(&bias.part(0, &[n])?), epilogue, y)
            }
        }
    }

    fn normal(&self, stream: &Stream, slot: usize) -> Result<(), KernelError> {
        let modulation = Some(DeviceModulation {
            shift: stream.rows(slot),
            scale: stream.rows(slot + 1),
        });
        norm_modulate(
            self.gpu,
            &stream.state,
            Norm::Rms { eps: 1e-6 },
            None,
            modulation,
            &stream.normal,
        )
    }

    fn turn(&self, x: Columns<'_>, rope: Option<&DeviceTable>) -> Result<(), KernelError> {
        let norm = DeviceQkNorm {
            eps: 1e-6,
            weight: None,
            per_head: false,
        };
        qk_norm_rope(
            self.gpu,
            x,
            HEADS,
            norm,
            rope.map(|rope| (rope, Layout::Split)),
        )
    }

    fn attend(
        &self,
        q: Columns<'_>,
        k: Columns<'_>,
        v: Columns<'_>,
        o: &Array,
    ) -> Result<(), KernelError> {
        let d = q.width / HEADS;
        let heads = Heads {
            query: HEADS,
            key: HEADS,
            scale: 1.0 / (d as f32).sqrt(),
        };
        self.count(4 * q.rows.row_count() * k.rows.row_count() * q.width);
        attention(
            self.gpu,
            best_path(self.gpu, d, Mask::None),
            Inputs { q, k, v },
            heads,
            DeviceMask::None,
            o,
            None,
        )
    }

    /// Gates of the heads, the output's product, and the residual.
    fn close(
        &self,
        weights: &Weights<'_>,
        stream: &Stream,
        o: &Array,
        slot: usize,
    ) -> Result<(), KernelError> {
        self.product(weights, &stream.normal, false, &stream.bias, &stream.logits)?;
        head_gate(self.gpu, o, &stream.logits)?;
        self.product(weights, o, false, &stream.bias, &stream.product)?;
        gated_residual(self.gpu, &stream.state, &stream.product, stream.rows(slot))
    }

    fn block(&self, weights: &Weights<'_>) -> Result<(), KernelError> {
        self.self_attention(weights, &self.video)?;
        self.self_attention(weights, &self.audio)?;
        self.text_attention(weights, &self.video, &self.text[0])?;
        self.text_attention(weights, &self.audio, &self.text[1])?;
        self.normal(&self.video, 3)?;
        self.normal(&self.audio, 3)?;
        self.across(weights, &self.video, &self.audio)?;
        self.across(weights, &self.audio, &self.video)?;
        self.feed_forward(weights, &self.video)?;
        self.feed_forward(weights, &self.audio)
    }

    fn self_attention(&self, weights: &Weights<'_>, s: &Stream) -> Result<(), KernelError> {
        self.normal(s, 0)?;
        self.product(weights, &s.normal, false, &s.bias, &s.packed)?;
        let columns = |i: usize| Columns {
            rows: &s.packed,
            first: i * s.width,
            width: s.width,
        };
        self.turn(columns(0), Some(&s.rope))?;
        self.turn(columns(1), Some(&s.rope))?;
        self.attend(columns(0), columns(1), columns(2), &s.output)?;
        self.close(weights, s, &s.output, 2)
    }

    fn text_attention(
        &self,
        weights: &Weights<'_>,
        s: &Stream,
        text: &Array,
    ) -> Result<(), KernelError> {
        self.normal(s, 0)?;
        self.product(weights, &s.normal, false, &s.bias, &s.product)?;
        let keys = &s.text;
        self.product(weights, text, false, &s.bias, keys)?;
        let columns = |i: usize| Columns {
            rows: keys,
            first: i * s.width,
            width: s.width,
        };
        self.turn(Columns::all(&s.product), None)?;
        self.turn(columns(0), None)?;
        self.attend(Columns::all(&s.product), columns(0), columns(1), &s.output)?;
        self.close(weights, s, &s.output, 2)
    }

    /// Queries of one stream over keys of the other, in the sound's width.
    fn across(&self, weights: &Weights<'_>, to: &Stream, from: &Stream) -> Result<(), KernelError> {
        let width = AUDIO.1;
        let (q, o) = (to.part(&to.product, width)?, to.part(&to.output, width)?);
        self.product(weights, &to.normal, false, &to.bias, &q)?;
        self.product(weights, &from.normal, false, &from.bias, &from.crossed)?;
        let columns = |i: usize| Columns {
            rows: &from.crossed,
            first: i * width,
            width,
        };
        self.turn(Columns::all(&q), None)?;
        self.turn(columns(0), None)?;
        self.attend(Columns::all(&q), columns(0), columns(1), &o)?;
        self.close(weights, to, &o, 5)
    }

    fn feed_forward(&self, weights: &Weights<'_>, s: &Stream) -> Result<(), KernelError> {
        self.normal(s, 6)?;
        self.product(weights, &s.normal, true, &s.bias, &s.inner)?;
        self.product(weights, &s.inner, false, &s.bias, &s.product)?;
        gated_residual(self.gpu, &s.state, &s.product, s.rows(8))
    }
}
