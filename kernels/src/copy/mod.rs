//! Moving rows: `gather_rows`, of which a token embedding is the scaled form.

pub mod cuda;

use crate::{DType, Device, KernelError, Tensor};

/// `out[n] = scale * table[ids[n]]`. table [R, D], ids U32 [N] -> out [N, D].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`]; [`KernelError::Unsupported`] for an id beyond the table.
pub fn gather_rows(
    device: &Device,
    table: &Tensor,
    ids: &Tensor,
    scale: f32,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    const OP: &str = "gather_rows";
    let [rows, width] = table.expect_rank(OP, "table")?;
    ids.expect_dtype(OP, "ids", DType::U32)?;
    out.expect_f32(OP, "out", &[ids.count(), width])?;
    if let Some(id) = ids.u32s().iter().find(|id| **id as usize >= rows) {
        return Err(KernelError::unsupported(OP, format!("row {id} of {rows}")));
    }
    let Device::Cpu(cpu) = device;
    let (table, ids) = (table.f32s(), ids.u32s());
    cpu.for_each_chunk(out.f32s_mut(), width, |n, out| {
        let row = &table[ids[n] as usize * width..][..width];
        out.iter_mut()
            .zip(row)
            .for_each(|(out, value)| *out = scale * value);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{noise, tensor};

    #[test]
    fn rows_are_gathered_and_scaled() {
        let device = Device::cpu(1).unwrap();
        let table = tensor(&[3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let ids = Tensor::from_u32(&device, &[4], vec![2, 0, 2, 1]).unwrap();
        let mut out = noise(1, &[4, 2]);
        gather_rows(&device, &table, &ids, 2.0, &mut out).unwrap();
        assert_eq!(out.f32s(), [8.0, 10.0, 0.0, 2.0, 8.0, 10.0, 4.0, 6.0]);
    }

    #[test]
    fn a_row_beyond_the_table_is_refused() {
        let device = Device::cpu(1).unwrap();
        let ids = Tensor::from_u32(&device, &[1], vec![3]).unwrap();
        let mut out = noise(1, &[1, 2]);
        assert!(gather_rows(&device, &noise(1, &[3, 2]), &ids, 1.0, &mut out).is_err());
    }
}
