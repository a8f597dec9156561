//! Moving values: `copy_range` as they lie in memory, `gather_rows` by number, of which a token
//! embedding is the scaled form.

pub mod cuda;

use crate::{Cuda, DType, Device, KernelError, Tensor};

/// `to[to_at + i] = from[from_at + i]` for i < count, whatever the shapes: cuts and joins tensors along
/// their outermost dimension.
///
/// # Errors
/// [`KernelError::DType`] unless both are F32; [`KernelError::Shape`] for a range beyond either.
pub fn copy_range(
    device: &Device,
    (from, from_at): (&Tensor, usize),
    (to, to_at): (&mut Tensor, usize),
    count: usize,
) -> Result<(), KernelError> {
    const OP: &str = "copy_range";
    from.expect_dtype(OP, "from", DType::F32)?;
    to.expect_dtype(OP, "to", DType::F32)?;
    for (what, at, length) in [("from", from_at, from.count()), ("to", to_at, to.count())] {
        if at.checked_add(count).is_none_or(|end| end > length) {
            let found = format!("{count} values from {at} on");
            return Err(KernelError::shape(
                OP,
                what,
                format!("{length} values"),
                found,
            ));
        }
    }
    if let Device::Cuda(card) = device {
        let to = card.own(to)?;
        let from = card.cast(from, to.element())?;
        return card.gpu().copy_range((&from, from_at), (&to, to_at), count);
    }
    to.f32s_mut()[to_at..][..count].copy_from_slice(&from.f32s()[from_at..][..count]);
    Ok(())
}

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
    if let Device::Cuda(card) = device {
        return gather_on_card(card, table, ids, scale, out);
    }
    if let Some(id) = ids.u32s().iter().find(|id| **id as usize >= rows) {
        return Err(KernelError::unsupported(OP, format!("row {id} of {rows}")));
    }
    let cpu = device.host();
    let (table, ids) = (table.f32s(), ids.u32s());
    cpu.for_each_chunk(out.f32s_mut(), width, |n, out| {
        let row = &table[ids[n] as usize * width..][..width];
        out.iter_mut()
            .zip(row)
            .for_each(|(out, value)| *out = scale * value);
    });
    Ok(())
}

/// Ids are looked at on the processor: a kernel would read whatever lies behind the table.
fn gather_on_card(
    card: &Cuda,
    table: &Tensor,
    ids: &Tensor,
    scale: f32,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    let rows = table.row_count();
    if let Some(id) = ids
        .to_host()?
        .u32s()
        .iter()
        .find(|id| **id as usize >= rows)
    {
        let why = format!("row {id} of {rows}");
        return Err(KernelError::unsupported("gather_rows", why));
    }
    let (table, ids, target) = (card.array(table)?, card.array(ids)?, card.own(out)?);
    let gathered = match table.element() == target.element() {
        true => target.clone(),
        false => card.gpu().empty(table.element(), target.dims())?,
    };
    cuda::gather_rows(card.gpu(), &table, &ids, scale, &gathered)?;
    match table.element() == target.element() {
        true => Ok(()),
        false => cuda::cast(card.gpu(), &gathered, &target),
    }
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
    fn a_range_is_copied_and_one_that_does_not_fit_is_refused() {
        let device = Device::cpu(1).unwrap();
        let from = tensor(&[3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let mut to = tensor(&[5], vec![9.0; 5]);
        copy_range(&device, (&from, 2), (&mut to, 1), 3).unwrap();
        assert_eq!(to.f32s(), [9.0, 2.0, 3.0, 4.0, 9.0]);
        for (from_at, to_at, count) in [(4, 0, 3), (0, 3, 3), (usize::MAX, 0, 1)] {
            assert!(copy_range(&device, (&from, from_at), (&mut to, to_at), count).is_err());
        }
    }

    #[test]
    fn a_row_beyond_the_table_is_refused() {
        let device = Device::cpu(1).unwrap();
        let ids = Tensor::from_u32(&device, &[1], vec![3]).unwrap();
        let mut out = noise(1, &[1, 2]);
        assert!(gather_rows(&device, &noise(1, &[3, 2]), &ids, 1.0, &mut out).is_err());
    }
}
