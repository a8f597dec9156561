//! Modulation on a GPU. Activations are F32 or BF16, tables F32, groups U32.

use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};

/// Threads of a block that covers one row of `width` values, eight a thread.
pub(crate) fn row_threads(width: usize) -> u32 {
    (width.div_ceil(8).next_multiple_of(32) as u32).clamp(32, 256)
}

/// Blocks of 256 threads that cover `count` values, `each` a thread.
pub(crate) fn flat_blocks(count: usize, each: usize) -> u32 {
    count.div_ceil(256 * each) as u32
}

/// The module of an op for a type of activations.
pub(crate) fn module_of(
    op: &'static str,
    names: [&'static str; 2],
    element: Element,
) -> Result<&'static str, KernelError> {
    match element {
        Element::BF16 => Ok(names[0]),
        Element::F32 => Ok(names[1]),
        other => Err(KernelError::unsupported(
            op,
            format!("activations of type {other:?}"),
        )),
    }
}

/// One row of modulation a token; see [`super::Rows`].
#[derive(Clone, Copy)]
pub struct DeviceRows<'a> {
    /// F32 [group, slot, D].
    pub table: &'a Array,
    /// Row within a group.
    pub slot: usize,
    /// U32 [token].
    pub groups: Option<&'a Array>,
}

impl DeviceRows<'_> {
    /// Refuses another type or shape. Groups are on the device: whoever uploads them checks them.
    pub(crate) fn check(
        &self,
        op: &'static str,
        what: &'static str,
        tokens: usize,
        width: usize,
    ) -> Result<(), KernelError> {
        let [groups, slots] = match self.table.dims() {
            [groups, slots, found] if *found == width && self.slot < *slots => [*groups, *slots],
            found => {
                return Err(KernelError::shape(
                    op,
                    what,
                    format!("[1 or more, more than {}, {width}]", self.slot),
                    found,
                ));
            }
        };
        self.table
            .expect(op, what, Element::F32, &[groups, slots, width])?;
        match self.groups {
            Some(ids) => ids.expect(op, what, Element::U32, &[tokens]),
            None => Ok(()),
        }
    }

    /// Address of the slot in group 0.
    pub(crate) fn address(&self) -> u64 {
        self.table.address() + (self.slot * self.table.last_dim() * 4) as u64
    }

    /// Values between a slot of neighbouring groups.
    pub(crate) fn stride(&self) -> u32 {
        (self.table.dims()[1] * self.table.last_dim()) as u32
    }
}

const MODULES: [&str; 2] = ["modulation_bf16", "modulation_f32"];

/// `x += gate * y`; x, y [N, D].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn gated_residual(
    gpu: &Gpu,
    x: &Array,
    y: &Array,
    gate: DeviceRows<'_>,
) -> Result<(), KernelError> {
    const OP: &str = "gated_residual";
    let (rows, width) = (x.row_count(), x.last_dim());
    y.expect(OP, "y", x.element(), x.dims())?;
    gate.check(OP, "gate", rows, width)?;
    gpu.launch(&Launch {
        module: module_of(OP, MODULES, x.element())?,
        entry: OP,
        blocks: [rows as u32, 1, 1],
        threads: row_threads(width),
        shared_bytes: 0,
        arguments: Arguments::new()
            .array(x)
            .array(y)
            .long(gate.address())
            .maybe(gate.groups)
            .word(gate.stride())
            .word(width as u32),
    })
}

/// `out[g, i] = table[i] + module[g, i]`; all F32, see [`super::ada_table`].
///
/// # Errors
/// [`KernelError::Shape`], and what a launch gives.
pub fn ada_table(gpu: &Gpu, table: &Array, module: &Array, out: &Array) -> Result<(), KernelError> {
    const OP: &str = "ada_table";
    let (groups, size) = (module.row_count(), table.count());
    module.expect(OP, "module", Element::F32, &[groups, size])?;
    let dims = [groups, table.row_count(), table.last_dim()];
    out.expect(OP, "out", Element::F32, &dims)?;
    gpu.launch(&Launch {
        module: MODULES[1],
        entry: OP,
        blocks: [flat_blocks(size, 8), groups as u32, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: Arguments::new()
            .array(table)
            .array(module)
            .array(out)
            .word(size as u32),
    })
}

/// Sinusoids of timesteps [R] -> [R, 256]; F32, see [`super::timestep_embed`].
///
/// # Errors
/// [`KernelError::Shape`], and what a launch gives.
pub fn timestep_embed(
    gpu: &Gpu,
    timesteps: &Array,
    multiplier: f32,
    out: &Array,
) -> Result<(), KernelError> {
    const OP: &str = "timestep_embed";
    out.expect(
        OP,
        "out",
        Element::F32,
        &[timesteps.count(), super::TIMESTEP_WIDTH],
    )?;
    gpu.launch(&Launch {
        module: MODULES[1],
        entry: OP,
        blocks: [timesteps.count() as u32, 1, 1],
        threads: 128,
        shared_bytes: 0,
        arguments: Arguments::new()
            .array(timesteps)
            .float(multiplier)
            .array(out),
    })
}

/// `o[n, h] *= 2 sigmoid(logits[n, h])`; o [N, H * d], logits [N, H].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn head_gate(gpu: &Gpu, o: &Array, logits: &Array) -> Result<(), KernelError> {
    const OP: &str = "head_gate";
    let (rows, width, heads) = (o.row_count(), o.last_dim(), logits.last_dim());
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(KernelError::shape(
            OP,
            "o",
            format!("a multiple of {heads}"),
            o.dims(),
        ));
    }
    logits.expect(OP, "logits", o.element(), &[rows, heads])?;
    gpu.launch(&Launch {
        module: module_of(OP, MODULES, o.element())?,
        entry: OP,
        blocks: [rows as u32, 1, 1],
        threads: row_threads(width),
        shared_bytes: 0,
        arguments: Arguments::new()
            .array(o)
            .array(logits)
            .word(heads as u32)
            .word((width / heads) as u32),
    })
}
