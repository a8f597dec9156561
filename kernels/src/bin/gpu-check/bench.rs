//! How fast: each op on shapes of the model, as graph replays over inputs that do not fit in the cache.

use std::error::Error;

use serde_json::{Value, json};

use kernels::attention::cuda::{DeviceMask, Path, grid};
use kernels::conv::SpacePad;
use kernels::conv::cuda::{self as conv, DeviceConv, Geometry, conv_on};
use kernels::conv3d::TimePad;
use kernels::copy::cuda::{average, random_fill};
use kernels::cuda::{After, Array, Blas, Element, Gpu, Graph, Timer};
use kernels::linear::cuda::{DeviceEpilogue, linear};
use kernels::modulation::cuda::{DeviceRows, gated_residual, head_gate};
use kernels::norm::{
    Norm,
    cuda::{DeviceModulation, norm_modulate},
};
use kernels::pixel_norm::cuda::pixel_norm;
use kernels::rope::cuda::{Columns, DeviceQkNorm, DeviceTable, qk_norm_rope};
use kernels::rope::{Layout, plain_table};
use kernels::space_depth::{Write, cuda::depth_to_space};
use kernels::{KernelError, check::relative_distance};

use crate::attended::{Attended, HEADS};
use crate::child::{Card, say};
use crate::pass;

/// Parts of the bench, each in a child of its own.
pub const GROUPS: &[&str] = &[
    "elementwise",
    "linear",
    "blas",
    "attention/Mma",
    "attention/Hopper",
    "attention/HopperWide",
    "attention/HopperDeep",
    "conv3d/Mma",
    "conv3d/Hopper",
];

/// Replays that are timed, at most, and milliseconds that one row may take.
const REPLAYS: usize = 20;
const ROW_MS: f32 = 3000.0;
/// Rows of x, outputs and inner width of the model's products, at 768x512 and 1280x704.
const PRODUCTS: &[[usize; 3]] = &[
    [6144, 4096, 4096],
    [6144, 12_288, 4096],
    [6144, 16_384, 4096],
    [6144, 4096, 16_384],
    [14_080, 4096, 4096],
    [126, 2048, 2048],
];
/// Tokens and width of a head of the model's self-attention; 32 heads.
const ATTENTIONS: &[[usize; 2]] = &[
    [6144, 128],
    [14_080, 128],
    [32_640, 128],
    [53_680, 128],
    [100_000, 128],
    [6144, 64],
    [14_080, 64],
    [32_640, 64],
    [53_680, 64],
];
/// Frames, height, width and channels of decoder layers.
const CONVOLUTIONS: &[[usize; 4]] = &[
    [16, 16, 24, 1024],
    [16, 32, 48, 512],
    [16, 64, 96, 512],
    [16, 128, 192, 256],
    [8, 256, 384, 128],
];

/// Shapes for the comparison with PyTorch, under the names that our rows have.
pub fn torch_shapes() -> Value {
    json!({"linear": PRODUCTS, "attention": ATTENTIONS, "heads": HEADS, "conv3d": CONVOLUTIONS, "pass": pass::torch_sizes()})
}

type Outcome = Result<(), Box<dyn Error>>;
/// Work that is measured together.
pub type Launches<'a> = Vec<Box<dyn Fn() -> Result<(), KernelError> + 'a>>;

/// Median and spread of one launch in milliseconds, over replays of all `launches`.
///
/// # Errors
/// When the card refuses.
pub fn measure(card: &Card, launches: &Launches<'_>) -> Result<(f32, f32), Box<dyn Error>> {
    let all = || launches.iter().try_for_each(|launch| launch());
    // Once outside: loads modules and makes plans, which a recording may not.
    all()?;
    card.gpu.synchronise()?;
    let graph = Graph::record(&card.driver, all)?;
    let timer = Timer::new(&card.driver)?;
    let first = timer.time(|| graph.launch())?;
    let replays = ((ROW_MS / first.max(1e-3)) as usize).clamp(3, REPLAYS);
    (0..3.min(replays)).try_for_each(|_| graph.launch())?;
    let mut times = (0..replays)
        .map(|_| timer.time(|| graph.launch()))
        .collect::<Result<Vec<_>, _>>()?;
    times.sort_by(f32::total_cmp);
    let each = launches.len() as f32;
    Ok((
        times[replays / 2] / each,
        (times[replays - 1] - times[0]) / each,
    ))
}

/// What a launch does and moves.
enum Work {
    Flop(f64),
    Bytes(f64),
}

fn row(card: &Card, name: &str, shape: &str, work: Work, launches: &Launches<'_>) -> Outcome {
    let (ms, spread) = measure(card, launches)?;
    let a_second = |amount: f64| amount / f64::from(ms) / 1e-3;
    let mut line = json!({"kind": "op", "name": name, "shape": shape, "arch": card.driver.arch(), "ms": ms, "ms_spread": spread});
    match work {
        Work::Flop(flop) => line["tflops"] = json!(a_second(flop) / 1e12),
        Work::Bytes(bytes) => line["gbs"] = json!(a_second(bytes) / 1e9),
    }
    say(line);
    Ok(())
}

/// An array of random values.
pub fn random(
    gpu: &Gpu,
    element: Element,
    dims: &[usize],
    seed: u32,
) -> Result<Array, KernelError> {
    let array = gpu.empty(element, dims)?;
    random_fill(gpu, &array, seed, 1.0)?;
    Ok(array)
}

/// How many copies of something exceed the cache three times, at least two and at most sixteen.
fn copies(card: &Card, bytes: f64) -> usize {
    let wanted = 3.0 * card.gpu.card().cache_bytes as f64 / bytes.max(1.0);
    (wanted.ceil() as usize).clamp(2, 16)
}

/// What the card can do at best: a copy, and the largest product through cublasLt.
///
/// # Errors
/// When the card refuses.
pub fn ceilings(card: &Card) -> Outcome {
    copy_ceiling(card)?;
    let Some(blas) = blas(card)? else {
        return Ok(());
    };
    let (gpu, n) = (&card.gpu, 8192);
    let arrays = [1, 2, 3].map(|seed| random(gpu, Element::BF16, &[n, n], seed));
    let [x, w, y] = arrays;
    let (x, w, y) = (x?, w?, y?);
    let product: Launches<'_> = vec![Box::new(|| blas.linear(&x, &w, None, After::Nothing, &y))];
    let (ms, _) = measure(card, &product)?;
    say(
        json!({"kind": "ceiling", "matmul_tflops": 2.0 * (n as f64).powi(3) / f64::from(ms) / 1e9, "cublaslt": blas.version()}),
    );
    Ok(())
}

/// Reads 2 GiB and writes as much, by the driver and by a kernel; the faster one is the ceiling.
fn copy_ceiling(card: &Card) -> Outcome {
    let (gpu, count) = (&card.gpu, 1 << 29);
    let from = random(gpu, Element::F32, &[count], 1)?;
    let to = gpu.empty(Element::F32, &[count])?;
    let one = from.part(0, &[1, count])?;
    let driver: Launches<'_> = vec![Box::new(|| gpu.copy(&from, &to))];
    let kernel: Launches<'_> = vec![Box::new(|| average(gpu, &one, &to))];
    let gbs = |copy| -> Result<f64, Box<dyn Error>> {
        Ok(2.0 * from.bytes() as f64 / f64::from(measure(card, copy)?.0) / 1e6)
    };
    let (driver, kernel) = (gbs(&driver)?, gbs(&kernel)?);
    say(json!({"kind": "ceiling", "copy_gbs": driver.max(kernel), "driver_copy_gbs": driver}));
    Ok(())
}

/// cublasLt, or a line that says why not.
pub fn blas(card: &Card) -> Result<Option<Blas>, Box<dyn Error>> {
    match Blas::start(&card.libraries, card.driver.clone()) {
        Ok(blas) => Ok(Some(blas)),
        Err(error) => {
            say(json!({"kind": "skipped", "why": format!("no libcublasLt: {error}")}));
            Ok(None)
        }
    }
}

/// Measures a group.
///
/// # Errors
/// When the card refuses.
pub fn run(card: &Card, group: &str) -> Outcome {
    match group {
        "elementwise" => elementwise(card),
        "linear" => PRODUCTS
            .iter()
            .try_for_each(|shape| own_product(card, *shape)),
        "blas" => library_products(card),
        "conv3d/Mma" => convolutions(card, conv::Path::Mma),
        "conv3d/Hopper" => convolutions(card, conv::Path::Hopper),
        "attention/Mma" => attentions(card, Path::Mma),
        "attention/Hopper" => attentions(card, Path::Hopper),
        "attention/HopperWide" => attentions(card, Path::HopperWide),
        "attention/HopperDeep" => attentions(card, Path::HopperDeep),
        _ => Err(format!("there is no group '{group}'").into()),
    }
}

/// x, w and y of a product, enough of them to exceed the cache.
fn operands(card: &Card, [m, n, k]: [usize; 3]) -> Result<Vec<[Array; 3]>, KernelError> {
    let bytes = 2.0 * (m * k + n * k + m * n) as f64;
    (0..copies(card, bytes) as u32)
        .map(|i| {
            let array = |dims, seed| random(&card.gpu, Element::BF16, dims, seed);
            Ok([
                array(&[m, k], 3 * i)?,
                array(&[n, k], 3 * i + 1)?,
                array(&[m, n], 3 * i + 2)?,
            ])
        })
        .collect()
}

fn own_product(card: &Card, shape: [usize; 3]) -> Outcome {
    let [m, n, k] = shape;
    let operands = operands(card, shape)?;
    let launches: Launches<'_> = operands
        .iter()
        .map(|[x, w, y]| {
            Box::new(move || linear(&card.gpu, x, w, None, DeviceEpilogue::None, y))
                as Box<dyn Fn() -> _>
        })
        .collect();
    row(
        card,
        "linear",
        &format!("{m}x{n}x{k}"),
        Work::Flop(2.0 * (m * n * k) as f64),
        &launches,
    )
}

/// Measures cublasLt, and holds its result against that of our own kernel.
fn library_products(card: &Card) -> Outcome {
    let Some(blas) = blas(card)? else {
        return Ok(());
    };
    for [m, n, k] in PRODUCTS {
        let operands = operands(card, [*m, *n, *k])?;
        let (shape, name) = (format!("{m}x{n}x{k}"), "blas");
        let bias = random(&card.gpu, Element::BF16, &[*n], 77)?;
        let float_bias = card
            .gpu
            .upload(Element::F32, &[*n], &card.gpu.download(&bias)?)?;
        let [x, w, y] = &operands[0];
        let own = card.gpu.filled(Element::BF16, &[*m, *n], 0xff)?;
        for (after, epilogue) in [
            (After::Nothing, DeviceEpilogue::None),
            (After::Gelu, DeviceEpilogue::GeluTanh),
        ] {
            blas.linear(x, w, Some(&bias), after, y)?;
            linear(&card.gpu, x, w, Some(&float_bias), epilogue, &own)?;
            let err = relative_distance(&card.gpu.download(y)?, &card.gpu.download(&own)?);
            let (right, shape) = (err <= 5e-3, format!("{shape} {after:?}"));
            say(
                json!({"kind": "op", "name": name, "shape": shape, "err": err, "tol": 5e-3, "right": right}),
            );
            if !right {
                say(
                    json!({"kind": "failure", "why": format!("cublasLt {shape}: off by {err:.1e} from our own kernel")}),
                );
            }
        }
        let launches: Launches<'_> = operands
            .iter()
            .map(|[x, w, y]| {
                let blas = &blas;
                Box::new(move || blas.linear(x, w, None, After::Nothing, y)) as Box<dyn Fn() -> _>
            })
            .collect();
        row(
            card,
            name,
            &shape,
            Work::Flop(2.0 * (m * n * k) as f64),
            &launches,
        )?;
    }
    Ok(())
}

fn attentions(card: &Card, path: Path) -> Outcome {
    if path != Path::Mma && !card.gpu.card().is_hopper() {
        say(json!({"kind": "skipped", "why": format!("{path:?} attention: not for this card")}));
        return Ok(());
    }
    for [tokens, d] in ATTENTIONS.iter().filter(|[_, d]| grid(path, *d).is_ok()) {
        let attended = Attended::new(&card.gpu, *tokens, *d)?;
        let launches: Launches<'_> = vec![Box::new(|| attended.run(path, DeviceMask::None))];
        let flop = 4.0 * HEADS as f64 * (*tokens as f64).powi(2) * *d as f64;
        row(
            card,
            &format!("attention {path:?}"),
            &format!("{tokens}x{d}"),
            Work::Flop(flop),
            &launches,
        )?;
    }
    Ok(())
}

fn convolutions(card: &Card, path: conv::Path) -> Outcome {
    if path == conv::Path::Hopper && !card.gpu.card().is_hopper() {
        say(json!({"kind": "skipped", "why": "conv3d Hopper: not for this card"}));
        return Ok(());
    }
    CONVOLUTIONS
        .iter()
        .try_for_each(|shape| convolution(card, path, *shape))
}

fn convolution(card: &Card, path: conv::Path, [t, h, w, c]: [usize; 4]) -> Outcome {
    let gpu = &card.gpu;
    let weights: Vec<f32> = (0..c * c * 27)
        .map(|i| (i * 7919 % 2003) as f32 / 1e4 - 0.1)
        .collect();
    let weights = DeviceConv::upload(gpu, &weights, [c, c], [3; 3], None)?;
    let x = random(gpu, Element::BF16, &[1, t, h, w, c], 1)?;
    let y = gpu.empty(Element::BF16, &[1, t, h, w, c])?;
    let geometry = Geometry {
        stride: [1; 3],
        dilation: 1,
        before: [1; 3],
        out: [t, h, w],
        time: TimePad::Copies,
        space: SpacePad::Zero,
    };
    let launches: Launches<'_> = vec![Box::new(|| {
        conv_on(gpu, path, &x, &weights, geometry, None, &y)
    })];
    row(
        card,
        &format!("conv3d {path:?}"),
        &format!("{t}x{h}x{w}x{c}"),
        Work::Flop(54.0 * (t * h * w * c * c) as f64),
        &launches,
    )
}

fn elementwise(card: &Card) -> Outcome {
    let gpu = &card.gpu;
    let (rows, width) = (65_536, 4096);
    let bytes = (rows * width * 2) as f64;
    let shape = format!("{rows}x{width}");
    let (x, y) = (
        random(gpu, Element::BF16, &[rows, width], 1)?,
        random(gpu, Element::BF16, &[rows, width], 2)?,
    );
    let table = random(gpu, Element::F32, &[1, 3, width], 3)?;
    let slot = |slot| DeviceRows {
        table: &table,
        slot,
        groups: None,
    };
    let modulation = Some(DeviceModulation {
        shift: slot(0),
        scale: slot(1),
    });
    let one = |launch: Box<dyn Fn() -> Result<(), KernelError> + '_>,
               name: &str,
               shape: &str,
               bytes: f64| row(card, name, shape, Work::Bytes(bytes), &vec![launch]);
    one(Box::new(|| gpu.copy(&x, &y)), "copy", &shape, 2.0 * bytes)?;
    one(
        Box::new(|| norm_modulate(gpu, &x, Norm::Rms { eps: 1e-6 }, None, modulation, &y)),
        "norm_modulate",
        &shape,
        2.0 * bytes,
    )?;
    one(
        Box::new(|| gated_residual(gpu, &x, &y, slot(2))),
        "gated_residual",
        &shape,
        3.0 * bytes,
    )?;
    let logits = random(gpu, Element::BF16, &[rows, 32], 4)?;
    one(
        Box::new(|| head_gate(gpu, &x, &logits)),
        "head_gate",
        &shape,
        2.0 * bytes,
    )?;
    let rope = DeviceTable::upload(gpu, &plain_table(rows, 128, 1e4, 1.0)?)?;
    let norm = DeviceQkNorm {
        eps: 1e-6,
        weight: None,
        per_head: false,
    };
    let turn = || {
        qk_norm_rope(
            gpu,
            Columns::all(&x),
            32,
            norm,
            Some((&rope, Layout::Split)),
        )
    };
    one(
        Box::new(turn),
        "qk_norm_rope",
        &format!("{shape} shared table"),
        2.0 * bytes,
    )?;
    let pixels = x.part(0, &[rows * width / 512, 512])?;
    let out = y.part(0, pixels.dims())?;
    one(
        Box::new(|| pixel_norm(gpu, &pixels, 1e-8, true, &out)),
        "pixel_norm",
        "524288x512 silu",
        2.0 * bytes,
    )?;
    let deep = x.part(0, &[1, 8, 64, 128, 4096])?;
    let wide = y.part(0, &[1, 15, 128, 256, 512])?;
    let moved = 2.0 * 2.0 * wide.count() as f64;
    one(
        Box::new(|| depth_to_space(gpu, &deep, [2, 2, 2], Write::Set, &wide)),
        "depth_to_space",
        "8x64x128x4096 by 2",
        moved,
    )
}
