//! Moving values on a GPU: casts, rows by their ids, means, pictures.

use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::modulation::cuda::{flat_blocks, module_of, row_threads};

const MODULES: [&str; 2] = ["copy_bf16", "copy_f32"];

fn flat(entry: &'static str, module: &'static str, count: usize, arguments: Arguments) -> Launch {
    Launch {
        module,
        entry,
        blocks: [flat_blocks(count, 8), 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments,
    }
}

/// Between F32 and BF16, to nearest even.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`] for other types, and what a launch gives.
pub fn cast(gpu: &Gpu, from: &Array, to: &Array) -> Result<(), KernelError> {
    to.expect("cast", "to", to.element(), from.dims())?;
    let entry = match (from.element(), to.element()) {
        (Element::F32, Element::BF16) => "float_to_bf16",
        (Element::BF16, Element::F32) => "bf16_to_float",
        (a, b) => return Err(KernelError::unsupported("cast", format!("{a:?} to {b:?}"))),
    };
    let arguments = Arguments::new()
        .array(from)
        .array(to)
        .long(from.count() as u64);
    gpu.launch(&flat(entry, MODULES[1], from.count(), arguments))
}

/// `out[n] = scale * table[ids[n]]`; whoever uploads the ids checks them.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn gather_rows(
    gpu: &Gpu,
    table: &Array,
    ids: &Array,
    scale: f32,
    out: &Array,
) -> Result<(), KernelError> {
    const OP: &str = "gather_rows";
    let width = table.last_dim();
    ids.expect(OP, "ids", Element::U32, &[out.row_count()])?;
    out.expect(OP, "out", table.element(), &[ids.count(), width])?;
    gpu.launch(&Launch {
        module: module_of(OP, MODULES, table.element())?,
        entry: OP,
        blocks: [ids.count() as u32, 1, 1],
        threads: row_threads(width),
        shared_bytes: 0,
        arguments: Arguments::new()
            .array(table)
            .array(ids)
            .array(out)
            .word(width as u32)
            .float(scale),
    })
}

/// Mean over the first axis of x [n, ...] into out [...].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn average(gpu: &Gpu, x: &Array, out: &Array) -> Result<(), KernelError> {
    const OP: &str = "average";
    let inputs = x.dims()[0];
    if inputs == 0 || x.count() != inputs * out.count() || x.element() != out.element() {
        return Err(KernelError::shape(OP, "x", format!("n times {out:?}"), x));
    }
    let count = out.count();
    let arguments = Arguments::new()
        .array(x)
        .word(inputs as u32)
        .long(count as u64)
        .array(out)
        .long(count as u64);
    gpu.launch(&flat(
        OP,
        module_of(OP, MODULES, x.element())?,
        count,
        arguments,
    ))
}

/// Pictures in -1..=1 become bytes; see [`crate::to_frames`].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn to_frames(gpu: &Gpu, x: &Array, out: &Array) -> Result<(), KernelError> {
    const OP: &str = "to_frames";
    out.expect(OP, "out", Element::U8, x.dims())?;
    let arguments = Arguments::new().array(x).array(out).long(x.count() as u64);
    gpu.launch(&flat(
        OP,
        module_of(OP, MODULES, x.element())?,
        x.count(),
        arguments,
    ))
}

/// Values in -scale..scale that depend on the seed and the index alone, made on the device.
///
/// # Errors
/// [`KernelError::Unsupported`], and what a launch gives.
pub fn random_fill(gpu: &Gpu, out: &Array, seed: u32, scale: f32) -> Result<(), KernelError> {
    let arguments = Arguments::new()
        .array(out)
        .long(out.count() as u64)
        .word(seed)
        .float(scale);
    let module = module_of("random_fill", MODULES, out.element())?;
    gpu.launch(&flat("random_fill", module, out.count(), arguments))
}

/// The value that [`random_fill`] puts at an index, before it is rounded to the array's type.
pub(crate) fn random_value(index: u64, seed: u32, scale: f32) -> f32 {
    let bits = hash_of(hash_of(index as u32 ^ seed).wrapping_add((index >> 32) as u32));
    ((bits >> 8) as f32 / 8_388_608.0 - 1.0) * scale
}

fn hash_of(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
    x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}
