//! The sampler's arithmetic on a GPU: F32 latents, velocities F32 or BF16.

use super::Guidance;
use crate::KernelError;
use crate::cuda::{Arguments, Array, Element, Gpu, Launch};
use crate::modulation::cuda::{flat_blocks, module_of};

const MODULES: [&str; 2] = ["sampling_bf16", "sampling_f32"];

/// Velocities of the passes of one step; see [`super::Passes`].
#[derive(Clone, Copy)]
pub struct DevicePasses<'a> {
    /// With the prompt.
    pub conditional: &'a Array,
    /// With the negative prompt.
    pub negative: Option<&'a Array>,
    /// With the prompt and skipped self-attention.
    pub perturbed: Option<&'a Array>,
    /// With the prompt and without the other stream.
    pub isolated: Option<&'a Array>,
}

impl DevicePasses<'_> {
    /// The kernel's structure; a pass whose weight is 0 is left out.
    fn bytes(&self, guidance: Guidance, sigmas: &Array) -> Vec<u8> {
        let others = [
            (self.negative, guidance.scale - 1.0),
            (self.perturbed, guidance.perturbed),
            (self.isolated, guidance.modality - 1.0),
        ];
        let on = |(pass, weight): (Option<&Array>, f32)| {
            pass.filter(|_| weight != 0.0).map_or(0, Array::address)
        };
        let mut bytes = self.conditional.address().to_le_bytes().to_vec();
        others
            .iter()
            .for_each(|other| bytes.extend(on(*other).to_le_bytes()));
        bytes.extend(sigmas.address().to_le_bytes());
        others
            .iter()
            .for_each(|(_, weight)| bytes.extend(weight.to_le_bytes()));
        bytes.extend(0u32.to_le_bytes());
        bytes
    }

    fn check(&self, dims: &[usize], guidance: Guidance) -> Result<(), KernelError> {
        let element = self.conditional.element();
        self.conditional
            .expect(STEP, "conditional", element, dims)?;
        let optional = [
            ("negative", self.negative, guidance.scale != 1.0),
            ("perturbed", self.perturbed, guidance.perturbed != 0.0),
            ("isolated", self.isolated, guidance.modality != 1.0),
        ];
        for (name, pass, needed) in optional {
            match pass {
                Some(pass) => pass.expect(STEP, name, element, dims)?,
                None if needed => {
                    return Err(KernelError::unsupported(STEP, format!("no {name} pass")));
                }
                None => {}
            }
        }
        Ok(())
    }
}

const STEP: &str = "guidance_step";

/// Scratch of [`guidance_step`]: F64, as many slots of four sums as there are blocks.
///
/// # Errors
/// What an allocation gives.
pub fn guidance_slots(gpu: &Gpu) -> Result<Array, KernelError> {
    gpu.empty(Element::F64, &[2 * gpu.card().multiprocessors as usize, 4])
}

/// Guidance and one Euler step; see [`super::guidance_step`]. `sigmas` is F32 [2], this level (above 0: whoever
/// writes it checks it) and the next; `held` is (strength F32 [N], clean F32
/// [N, C]); `model_input`, when given, gets the new x in the type of the velocities.
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
#[expect(
    clippy::too_many_arguments,
    reason = "the op's arguments, its scratch and its second output"
)]
pub fn guidance_step(
    gpu: &Gpu,
    x: &Array,
    passes: DevicePasses<'_>,
    guidance: Guidance,
    sigmas: &Array,
    held: Option<(&Array, &Array)>,
    slots: &Array,
    model_input: Option<&Array>,
) -> Result<(), KernelError> {
    let [tokens, channels] = [x.row_count(), x.last_dim()];
    x.expect(STEP, "x", Element::F32, &[tokens, channels])?;
    passes.check(x.dims(), guidance)?;
    if let Some((strength, clean)) = held {
        strength.expect(STEP, "strength", Element::F32, &[tokens])?;
        clean.expect(STEP, "clean", Element::F32, x.dims())?;
    }
    if let Some(input) = model_input {
        input.expect(STEP, "model input", passes.conditional.element(), x.dims())?;
    }
    sigmas.expect(STEP, "sigmas", Element::F32, &[2])?;
    let module = module_of(STEP, MODULES, passes.conditional.element())?;
    let (bytes, blocks) = (passes.bytes(guidance, sigmas), slots.row_count() as u32);
    let launch = |entry, arguments| Launch {
        module,
        entry,
        blocks: [blocks, 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments,
    };
    let count = x.count() as u64;
    if guidance.rescale != 0.0 {
        let sums = Arguments::new()
            .array(x)
            .bytes(bytes.clone())
            .long(count)
            .array(slots);
        gpu.launch(&launch("guidance_sums", sums))?;
    }
    let step = Arguments::new()
        .array(x)
        .maybe(model_input)
        .bytes(bytes)
        .float(guidance.rescale)
        .array(slots)
        .word(blocks)
        .maybe(held.map(|held| held.0))
        .maybe(held.map(|held| held.1))
        .word(channels as u32)
        .long(count);
    gpu.launch(&launch(STEP, step))
}

/// `x = a x + b y`; F32.
///
/// # Errors
/// [`KernelError::Shape`], and what a launch gives.
pub fn axpby(gpu: &Gpu, a: f32, x: &Array, b: f32, y: &Array) -> Result<(), KernelError> {
    x.expect("axpby", "x", Element::F32, x.dims())?;
    y.expect("axpby", "y", Element::F32, x.dims())?;
    gpu.launch(&Launch {
        module: MODULES[1],
        entry: "axpby",
        blocks: [flat_blocks(x.count(), 8), 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: Arguments::new()
            .float(a)
            .array(x)
            .float(b)
            .array(y)
            .long(x.count() as u64),
    })
}

/// How many values are NaN or infinite. Waits for the device.
///
/// # Errors
/// [`KernelError::Unsupported`], and what a launch and a download give.
pub fn count_nonfinite(gpu: &Gpu, x: &Array) -> Result<usize, KernelError> {
    const OP: &str = "count_nonfinite";
    let slots = gpu.empty(Element::U32, &[2 * gpu.card().multiprocessors as usize])?;
    gpu.launch(&Launch {
        module: module_of(OP, MODULES, x.element())?,
        entry: OP,
        blocks: [slots.count() as u32, 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: Arguments::new()
            .array(x)
            .long(x.count() as u64)
            .array(&slots),
    })?;
    Ok(gpu
        .download(&slots)?
        .iter()
        .map(|count| *count as usize)
        .sum())
}
