//! Every convolution on a GPU: an implicit product with mma.sync, borders by arithmetic.

use crate::KernelError;
use crate::conv3d::TimePad;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::linear::cuda::{TILE, TILE_SHARED_BYTES};
use crate::modulation::cuda::module_of;

use super::SpacePad;

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
    const OP: &str = "conv";
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
    let Geometry {
        stride,
        dilation,
        before,
        time,
        space,
        ..
    } = geometry;
    let mut words = vec![
        batch,
        t,
        h,
        w,
        in_channels,
        out_t,
        out_h,
        out_w,
        out_channels,
    ];
    words.extend(weights.kernel);
    words.extend(stride);
    words.push(dilation);
    words.extend(before);
    words.extend([
        usize::from(time == TimePad::Zero),
        usize::from(space == SpacePad::Reflect),
    ]);
    let words: Vec<u32> = words.iter().map(|word| *word as u32).collect();
    gpu.launch(&Launch {
        module: module_of(OP, ["conv_bf16", "conv_f32"], out.element())?,
        entry: OP,
        blocks: [
            (rows.div_ceil(TILE) * out_channels.div_ceil(TILE)) as u32,
            1,
            1,
        ],
        threads: 256,
        shared_bytes: TILE_SHARED_BYTES,
        arguments: Arguments::new()
            .array(x)
            .array(&weights.weights)
            .maybe(weights.bias.as_ref())
            .maybe(residual)
            .array(out)
            .words(&words),
    })
}
