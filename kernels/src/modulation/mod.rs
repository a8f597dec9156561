//! Adaptive norm rows: where they come from (`timestep_embed`, `ada_table`) and how a token finds
//! its own ([`Rows`]); and the gate of attention heads (`head_gate`).

mod cpu;
pub mod cuda;

use crate::cuda::Array;
use crate::{Cuda, DType, Device, KernelError, Tensor};

/// Values of a timestep embedding: cosines, then as many sines.
pub const TIMESTEP_WIDTH: usize = 256;

/// One row of modulation a token: row `slot` of the group that the token belongs to.
///
/// `table` is F32 [group, slot, D]. Tokens that share a timestep share a group, so the table stays
/// small however many tokens there are. Without `groups` (U32 [token]) all tokens are in group 0.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// F32 [group, slot, D].
    pub table: &'a Tensor,
    /// Row within a group.
    pub slot: usize,
    /// U32 [token]: group of each token.
    pub groups: Option<&'a Tensor>,
}

impl<'a> Rows<'a> {
    /// The row of a token.
    pub(crate) fn row(&self, token: usize) -> &'a [f32] {
        let [slots, width] = [self.table.dims()[1], self.table.dims()[2]];
        let group = self
            .groups
            .map_or(0, |groups| groups.u32s()[token] as usize);
        &self.table.f32s()[(group * slots + self.slot) * width..][..width]
    }

    /// The same rows for a kernel.
    pub(crate) fn on_card(&self, card: &Cuda) -> Result<CardRows, KernelError> {
        let groups = self.groups.map(|groups| card.array(groups));
        Ok(CardRows {
            table: card.floats(self.table)?,
            slot: self.slot,
            groups: groups.transpose()?,
        })
    }

    /// Refuses rows of another width, a slot or group beyond the table or another token count.
    pub(crate) fn check(
        &self,
        op: &'static str,
        what: &'static str,
        tokens: usize,
        width: usize,
    ) -> Result<(), KernelError> {
        let [group_count, slots, found] = self.table.expect_rank(op, what)?;
        if found != width || self.slot >= slots || group_count == 0 {
            let expected = format!("[1 or more, more than {}, {width}]", self.slot);
            return Err(KernelError::shape(op, what, expected, self.table.dims()));
        }
        let Some(groups) = self.groups else {
            return Ok(());
        };
        groups.expect(op, what, DType::U32, &[tokens])?;
        match groups
            .u32s()
            .iter()
            .find(|group| **group as usize >= group_count)
        {
            None => Ok(()),
            Some(group) => Err(KernelError::unsupported(
                op,
                format!("group {group} of {group_count}"),
            )),
        }
    }
}

/// [`Rows`] whose arrays are at hand.
pub(crate) struct CardRows {
    table: Array,
    slot: usize,
    groups: Option<Array>,
}

impl CardRows {
    pub(crate) fn view(&self) -> cuda::DeviceRows<'_> {
        cuda::DeviceRows {
            table: &self.table,
            slot: self.slot,
            groups: self.groups.as_ref(),
        }
    }
}

/// Sinusoids of timesteps: `out[r] = [cos(t w_i).., sin(t w_i)..]`, `w_i = 10000^(-i/128)`,
/// `t = timesteps[r] * multiplier`. timesteps [R] -> out [R, 256].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`].
pub fn timestep_embed(
    device: &Device,
    timesteps: &Tensor,
    multiplier: f32,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    let [count] = timesteps.expect_rank("timestep_embed", "timesteps")?;
    out.expect_f32("timestep_embed", "out", &[count, TIMESTEP_WIDTH])?;
    match device {
        Device::Cpu(_) => cpu::timestep_embed(timesteps, multiplier, out),
        Device::Cuda(card) => {
            let (timesteps, out) = (card.floats(timesteps)?, card.own(out)?);
            return cuda::timestep_embed(card.gpu(), &timesteps, multiplier, &out);
        }
    }
    Ok(())
}

/// Rows of one block at one step: `out[g, i] = table[i] + module[g, i]`.
/// table [n, D], module [G, n * D] -> out [G, n, D].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`].
pub fn ada_table(
    device: &Device,
    table: &Tensor,
    module: &Tensor,
    out: &mut Tensor,
) -> Result<(), KernelError> {
    let [rows, width] = table.expect_rank("ada_table", "table")?;
    let [groups, _] = module.expect_rank("ada_table", "module")?;
    module.expect_f32("ada_table", "module", &[groups, rows * width])?;
    out.expect_f32("ada_table", "out", &[groups, rows, width])?;
    match device {
        Device::Cpu(cpu) => cpu::ada_table(cpu, table, module, out),
        Device::Cuda(card) => {
            let (table, module) = (card.floats(table)?, card.floats(module)?);
            return cuda::ada_table(card.gpu(), &table, &module, &card.own(out)?);
        }
    }
    Ok(())
}

/// Gates the heads of an attention output in place: `o[n, h] *= 2 sigmoid(logits[n, h])`.
/// o [N, H * d], logits [N, H].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::DType`].
pub fn head_gate(device: &Device, o: &mut Tensor, logits: &Tensor) -> Result<(), KernelError> {
    let [tokens, heads] = logits.expect_rank("head_gate", "logits")?;
    let [rows, width] = o.expect_rank("head_gate", "o")?;
    if rows != tokens || heads == 0 || width % heads != 0 {
        let expected = format!("[{tokens}, a multiple of {heads}]");
        return Err(KernelError::shape("head_gate", "o", expected, o.dims()));
    }
    match device {
        Device::Cpu(cpu) => cpu::head_gate(cpu, o, logits),
        Device::Cuda(card) => {
            let o = card.own(o)?;
            return cuda::head_gate(card.gpu(), &o, &card.cast(logits, o.element())?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise, tensor};

    #[test]
    fn timesteps_become_cosines_then_sines() {
        let device = Device::cpu(1).unwrap();
        let mut out = tensor(&[2, TIMESTEP_WIDTH], vec![0.0; 512]);
        timestep_embed(&device, &tensor(&[2], vec![0.0, 0.7]), 1000.0, &mut out).unwrap();
        let angle = |i: usize| 700.0 * 10000f64.powf(-(i as f64) / 128.0);
        let expected: Vec<f64> = std::iter::repeat_n(1.0, 128)
            .chain(std::iter::repeat_n(0.0, 128))
            .chain((0..128).map(|i| angle(i).cos()))
            .chain((0..128).map(|i| angle(i).sin()))
            .collect();
        assert_close(out.f32s(), &expected, 1e-5);
    }

    #[test]
    fn a_table_is_added_to_every_group() {
        let device = Device::cpu(2).unwrap();
        let (table, module) = (noise(1, &[3, 4]), noise(2, &[2, 12]));
        let mut out = tensor(&[2, 3, 4], vec![0.0; 24]);
        ada_table(&device, &table, &module, &mut out).unwrap();
        for i in 0..24 {
            assert_eq!(out.f32s()[i], table.f32s()[i % 12] + module.f32s()[i]);
        }
        assert!(ada_table(&device, &table, &noise(2, &[2, 11]), &mut out).is_err());
    }

    #[test]
    fn heads_are_gated_alone() {
        let device = Device::cpu(2).unwrap();
        let (before, logits) = (noise(1, &[5, 12]), noise(2, &[5, 3]));
        let mut o = before.clone();
        head_gate(&device, &mut o, &logits).unwrap();
        let gate =
            |i: usize| 2.0 / (1.0 + f64::from(-logits.f32s()[i / 12 * 3 + i % 12 / 4]).exp());
        let expected: Vec<f64> = (0..60)
            .map(|i| f64::from(before.f32s()[i]) * gate(i))
            .collect();
        assert_close(o.f32s(), &expected, 1e-5);
        assert!(head_gate(&device, &mut o, &noise(2, &[5, 5])).is_err());
    }

    #[test]
    fn a_token_of_a_group_beyond_the_table_is_refused() {
        let device = Device::cpu(1).unwrap();
        let table = noise(1, &[2, 3, 4]);
        let groups = Tensor::from_u32(&device, &[3], vec![0, 1, 2]).unwrap();
        let rows = Rows {
            table: &table,
            slot: 0,
            groups: Some(&groups),
        };
        assert!(rows.check("op", "rows", 3, 4).is_err());
        assert!(
            Rows {
                table: &table,
                slot: 3,
                groups: None
            }
            .check("op", "rows", 3, 4)
            .is_err()
        );
        assert!(
            Rows {
                table: &table,
                slot: 2,
                groups: None
            }
            .check("op", "rows", 3, 4)
            .is_ok()
        );
    }
}
