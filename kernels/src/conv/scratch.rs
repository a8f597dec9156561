//! What a convolution takes of memory beside its operands, told beforehand.

use super::cuda::is_tiled_on_hopper;
use super::{ConvWeights, Prologue, SpacePad};
use crate::Device;

/// Values, kept as activations are, of the copies that a convolution of stride 1 makes of its input: `images`
/// pictures of `size` [rows, columns] with borders that keep it. The processor writes the borders around it, a
/// card what comes before the convolution and, ahead of TMA, a mirrored border.
pub fn scratch_values(
    device: &Device,
    weights: &ConvWeights,
    (images, [rows, columns]): (usize, [usize; 2]),
    space: SpacePad,
    prologue: Prologue,
) -> usize {
    let [_, kernel_h, kernel_w] = weights.kernel();
    let plain = images * rows * columns * weights.in_channels();
    let bordered =
        images * (rows + kernel_h - 1) * (columns + kernel_w - 1) * weights.in_channels();
    let prepared = match prologue {
        Prologue::None => 0,
        _ => plain,
    };
    match (device, weights.on_card()) {
        (Device::Cpu(_), _) if weights.kernel() == [1; 3] => prepared,
        (Device::Cpu(_), _) => bordered,
        (Device::Cuda(card), Some(on_card))
            if space == SpacePad::Reflect && is_tiled_on_hopper(card.gpu(), on_card) =>
        {
            prepared + bordered
        }
        (Device::Cuda(_), _) => prepared,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Tensor;
    use crate::conv3d::{Conv3dOptions, TimePad, conv3d};
    use crate::cuda::{Gpu, Nowhere};

    const CHANNELS: usize = 64;

    /// Bytes of a card that a convolution takes beside its operands, and those that are foretold.
    fn taken(capability: (u32, u32), kernel: usize, options: Conv3dOptions) -> [u64; 2] {
        let device = Device::cuda(Gpu::new(Arc::new(Nowhere::new(capability))), 1).unwrap();
        let dims = [CHANNELS, CHANNELS, kernel, kernel, kernel];
        let weight = Tensor::host_zeros(crate::DType::F32, &dims).unwrap();
        let weights = ConvWeights::new(&device, &weight, None).unwrap();
        let dims = [1, 3, 8, 6, CHANNELS];
        let x = Tensor::activations(&device, &dims).unwrap();
        let mut out = Tensor::activations(&device, &dims).unwrap();
        let watch = device.watch_memory().unwrap();
        conv3d(&device, &x, &weights, options, None, &mut out).unwrap();
        let (images, prologue) = ((3, [8, 6]), options.prologue);
        let foretold = scratch_values(&device, &weights, images, options.space, prologue);
        [
            watch.grown_bytes(),
            foretold as u64 * device.activation_bytes(),
        ]
    }

    #[test]
    fn copies_on_a_card_are_foretold_a_mirrored_border_among_them() {
        let normed = Prologue::PixelNormSilu { eps: 1e-8 };
        for (kernel, space, prologue) in [
            (3, SpacePad::Zero, Prologue::None),
            (3, SpacePad::Zero, normed),
            (3, SpacePad::Reflect, Prologue::None),
            (3, SpacePad::Reflect, normed),
            (1, SpacePad::Zero, normed),
        ] {
            let options = Conv3dOptions {
                time: TimePad::Copies,
                space,
                prologue,
            };
            for capability in [(8, 0), (9, 0)] {
                let [found, foretold] = taken(capability, kernel, options);
                assert_eq!(found, foretold, "{capability:?} {kernel} {options:?}");
            }
        }
        let mirrored = Conv3dOptions {
            time: TimePad::Copies,
            space: SpacePad::Reflect,
            prologue: Prologue::None,
        };
        let [plain, hopper] = [(8, 0), (9, 0)].map(|card| taken(card, 3, mirrored)[0]);
        assert_eq!((plain, hopper), (0, (3 * 10 * 8 * CHANNELS * 2) as u64));
    }
}
