//! `norm_modulate` on a GPU: one block a row, F32 or BF16 rows of up to 8192 values.

use super::{Norm, OP};
use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::modulation::cuda::{DeviceRows, module_of, row_threads};

/// Longest row that fits in a block's registers.
const WIDTH_MAX: usize = 8192;

/// A weight F32 [D] and what is added to it; none is 1.
pub type DeviceWeight<'a> = Option<(&'a Array, f32)>;

/// Shift and scale of every token.
#[derive(Clone, Copy)]
pub struct DeviceModulation<'a> {
    /// Added last.
    pub shift: DeviceRows<'a>,
    /// One is added to it, then it multiplies.
    pub scale: DeviceRows<'a>,
}

/// Normalises and modulates the rows of x [N, D] into y; see the module above.
///
/// # Errors
/// [`KernelError::Shape`]; [`KernelError::Unsupported`] for rows above 8192; what a launch gives.
pub fn norm_modulate(
    gpu: &Gpu,
    x: &Array,
    norm: Norm,
    weight: DeviceWeight<'_>,
    modulation: Option<DeviceModulation<'_>>,
    y: &Array,
) -> Result<(), KernelError> {
    let (rows, width) = (x.row_count(), x.last_dim());
    y.expect(OP, "y", x.element(), x.dims())?;
    if width > WIDTH_MAX {
        return Err(KernelError::unsupported(
            OP,
            format!("rows of {width} on a GPU"),
        ));
    }
    if let Some((weight, _)) = weight {
        weight.expect(OP, "weight", Element::F32, &[width])?;
    }
    if let Some(DeviceModulation { shift, scale }) = modulation {
        shift.check(OP, "shift", rows, width)?;
        scale.check(OP, "scale", rows, width)?;
    }
    let (kind, eps) = match norm {
        Norm::None => (0, 0.0),
        Norm::Rms { eps } => (1, eps),
        Norm::Layer { eps } => (2, eps),
    };
    let rows_of = |arguments: Arguments, rows: Option<DeviceRows<'_>>| match rows {
        Some(rows) => arguments.maybe(rows.groups).word(rows.stride()),
        None => arguments.long(0).word(0),
    };
    let address = |rows: Option<DeviceRows<'_>>| rows.map_or(0, |rows| rows.address());
    let (shift, scale) = (modulation.map(|m| m.shift), modulation.map(|m| m.scale));
    let arguments = Arguments::new()
        .array(x)
        .array(y)
        .maybe(weight.map(|weight| weight.0))
        .float(weight.map_or(0.0, |weight| weight.1))
        .long(address(shift))
        .long(address(scale));
    let arguments = rows_of(rows_of(arguments, shift), scale)
        .word(kind)
        .float(eps)
        .word(width as u32);
    gpu.launch(&Launch {
        module: module_of(OP, ["norm_bf16", "norm_f32"], x.element())?,
        entry: match width <= WIDTH_MAX / 2 {
            true => OP,
            false => "norm_modulate_wide",
        },
        blocks: [rows as u32, 1, 1],
        threads: row_threads(width),
        shared_bytes: 0,
        arguments,
    })
}
