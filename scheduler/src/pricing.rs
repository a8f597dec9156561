//! What a task is expected to cost in device time: a pure function of weights, steps and tokens.
//!
//! `render = ENCODE + steps * tokens * TOKEN_STEP + pixels * DECODE`, times the rate of the weights;
//! `assemble = MUX + shots * JOIN + output pixels * ENCODE_PIXEL`.
//! A token is 16 by 16 pixels by one latent frame. The constants are those of the reference device,
//! two x86-64 cores running the built-in model; measured step times replace them in an ETA.

use schemas::{
    GpuMicros,
    task::{AssembleSpec, RenderSpec, TaskSpec},
};

use crate::core::rows::Band;

/// Load from cache, tokenise, encode the prompt, connectors; microseconds.
const ENCODE_US: u64 = 300_000;
/// One token through the transformer once, both passes of guidance; nanoseconds.
const TOKEN_STEP_NS: u64 = 400_000;
/// One pixel of one frame through the decoders; nanoseconds.
const DECODE_PIXEL_NS: u64 = 3_000;
/// Start of FFmpeg and the read-back of what it wrote; microseconds.
const MUX_US: u64 = 400_000;
const JOIN_US: u64 = 100_000;
/// One output pixel through scaling and H.264; nanoseconds.
const ENCODE_PIXEL_NS: u64 = 40;
/// The hold is the expected price times this, in percent: what a job may cost at most.
const HOLD_PERCENT: i64 = 150;
/// Edge of a token in pixels.
const TOKEN_EDGE: u64 = 16;

/// What pricing must know about weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostClass {
    /// Frames of one latent frame.
    pub frames_step: u32,
    /// Steps when the request names none.
    pub steps: u32,
    /// Cost of a token relative to the built-in model, in parts per million.
    pub rate_ppm: u64,
}

/// Expected device time of one task; never below one millisecond.
pub fn estimate(spec: &TaskSpec, class: CostClass) -> GpuMicros {
    let micros = match spec {
        TaskSpec::Render(render) => render_us(render, class),
        TaskSpec::Assemble(assemble) => assemble_us(assemble),
    };
    GpuMicros(i64::try_from(micros.max(1_000)).unwrap_or(i64::MAX / 4))
}

/// The ceiling that is held for a job of this band whose tasks are expected to take this in total.
pub fn hold(estimates: impl IntoIterator<Item = GpuMicros>, band: Band) -> GpuMicros {
    let total: i128 = estimates
        .into_iter()
        .map(|micros| i128::from(micros.0))
        .sum();
    GpuMicros(
        i64::try_from(total * i128::from(HOLD_PERCENT * band.factor_percent()) / 10_000)
            .unwrap_or(i64::MAX / 4),
    )
}

fn render_us(spec: &RenderSpec, class: CostClass) -> u64 {
    let steps = u64::from(spec.steps.unwrap_or(class.steps));
    let work_ns = steps
        .saturating_mul(tokens(spec, class.frames_step))
        .saturating_mul(TOKEN_STEP_NS)
        .saturating_add(pixels(spec.width, spec.height, spec.frames) * DECODE_PIXEL_NS);
    let scaled = u128::from(work_ns) * u128::from(class.rate_ppm) / 1_000_000;
    ENCODE_US.saturating_add(u64::try_from(scaled / 1_000).unwrap_or(u64::MAX))
}

fn assemble_us(spec: &AssembleSpec) -> u64 {
    let frames = spec.shot_frames.iter().sum();
    let encode_us = pixels(spec.width, spec.height, frames) * ENCODE_PIXEL_NS / 1_000;
    MUX_US + u64::from(spec.shots) * JOIN_US + encode_us
}

fn tokens(spec: &RenderSpec, frames_step: u32) -> u64 {
    let edge = |pixels: u32| u64::from(pixels).div_ceil(TOKEN_EDGE);
    let latent_frames = u64::from(spec.frames.saturating_sub(1) / frames_step.max(1)) + 1;
    latent_frames * edge(spec.width) * edge(spec.height)
}

fn pixels(width: u32, height: u32, frames: u32) -> u64 {
    u64::from(width) * u64::from(height) * u64::from(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: CostClass = CostClass {
        frames_step: 4,
        steps: 12,
        rate_ppm: 1_000_000,
    };

    fn render(frames: u32, steps: Option<u32>) -> TaskSpec {
        TaskSpec::Render(RenderSpec {
            shot: 0,
            weights: "builtin".into(),
            prompt: String::new(),
            negative_prompt: String::new(),
            width: 64,
            height: 64,
            frames,
            fps: 16,
            seed: 0,
            steps,
            guidance_scale: None,
            first_frame: None,
        })
    }

    #[test]
    fn the_default_shot_costs_what_the_formula_says() {
        // 300 ms + 12 steps * 272 tokens * 0.4 ms + 266,240 pixels * 3 us
        assert_eq!(
            estimate(&render(65, None), CLASS),
            GpuMicros(300_000 + 1_305_600 + 798_720)
        );
    }

    #[test]
    fn more_steps_frames_or_a_bigger_model_cost_more() {
        let base = estimate(&render(65, None), CLASS);
        assert!(estimate(&render(65, Some(24)), CLASS) > base);
        assert!(estimate(&render(33, None), CLASS) < base);
        assert!(
            estimate(
                &render(65, None),
                CostClass {
                    rate_ppm: 2_000_000,
                    ..CLASS
                }
            ) > base
        );
    }

    #[test]
    fn a_hold_covers_the_price_and_absurd_sums_do_not_wrap() {
        let two = [GpuMicros(100), GpuMicros(60)];
        let holds = Band::ALL.map(|band| hold(two, band));
        assert_eq!(holds, [GpuMicros(480), GpuMicros(240), GpuMicros(120)]);
        assert!(hold([GpuMicros(i64::MAX), GpuMicros(i64::MAX)], Band::Urgent).0 > 0);
    }
}
