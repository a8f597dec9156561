//! Elementary functions as straight-line code that the compiler turns into vector instructions.
//!
//! No function here fuses multiply and add, so a wider instruction set changes speed, not bits.

/// Runs `work` compiled for AVX-512 or AVX2 where the processor has it. Closures given to this must
/// be `#[inline(always)]`, or their bodies stay compiled for the base instruction set.
#[inline(always)]
#[expect(unsafe_code, reason = "calling a function of another instruction set")]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        fn widest<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        #[target_feature(enable = "avx2,fma")]
        fn wide<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        let avx2 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
        let avx512 = std::is_x86_feature_detected!("avx512f")
            && std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq");
        if avx2 && avx512 {
            // SAFETY: all features were just found on this processor.
            return unsafe { widest(work) };
        }
        if avx2 {
            // SAFETY: both features were just found on this processor.
            return unsafe { wide(work) };
        }
    }
    work()
}

/// Part of the device's class: processors that differ in this may round differently.
pub(crate) fn class_suffix() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return "-avx512";
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return "-avx2";
        }
    }
    ""
}

/// Lanes of a sum: fixed, so that a sum has one order on every machine.
pub(crate) const LANES: usize = 16;

/// e^x, relative error below 2e-7, flushed to the smallest normal number below -87.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = (p * r) * r + r + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    p * f32::from_bits(exponent)
}

/// 2^x for x of at most 0, relative error below 3e-7; 0 below -125, NaN for NaN.
#[inline(always)]
pub(crate) fn exp2_of_negative(x: f32) -> f32 {
    // As in `exp`.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    // Smallest relative error over [-1/2, 1/2] among those that give 1 at 0.
    let p = 0.001_326_472_7;
    let p = p * r + 0.009_671_513;
    let p = p * r + 0.055_507_336;
    let p = p * r + 0.240_222_42;
    let p = p * r + 0.693_146_94;
    let p = p * r + 1.0;
    let exponent = shifted
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127)
        << 23;
    let power = p * f32::from_bits(exponent);
    if x < -125.0 { 0.0 } else { power }
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// x * sigmoid(x).
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The tanh form of GELU: x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 2.0 * 0.797_884_6;
    x * sigmoid(TWICE_ROOT * (x + 0.044_715 * x * x * x))
}

/// Sum of `term(x)` over a slice, in sixteen lanes.
#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += term(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += term(*value);
    }
    // Halves the lanes until one is left.
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(
        range: (f64, f64),
        found: fn(f32) -> f32,
        exact: fn(f64) -> f64,
        relative: bool,
    ) -> f64 {
        let steps = 200_000;
        let points =
            (0..=steps).map(|i| range.0 + (range.1 - range.0) * f64::from(i) / f64::from(steps));
        points.fold(0.0, |worst, x| {
            let x = x as f32;
            let (a, b) = (f64::from(found(x)), exact(f64::from(x)));
            f64::max(worst, (a - b).abs() / if relative { b.abs() } else { 1.0 })
        })
    }

    #[test]
    fn elementary_functions_are_close_to_double_precision() {
        assert!(worst((-86.9, 87.9), exp, f64::exp, true) < 4e-7);
        assert!(worst((-124.9, 0.0), exp2_of_negative, f64::exp2, true) < 3e-7);
        assert!(worst((-20.0, 20.0), sigmoid, |x| 1.0 / (1.0 + (-x).exp()), false) < 3e-7);
        let gelu = |x: f64| {
            x / 2.0 * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh())
        };
        assert!(worst((-6.0, 6.0), gelu_tanh, gelu, false) < 1e-6);
        assert!(worst((-20.0, 20.0), silu, |x| x / (1.0 + (-x).exp()), false) < 3e-6);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 2e-38);
        assert_eq!(exp2_of_negative(0.0), 1.0);
        for hidden in [-125.1, -1e30, f32::NEG_INFINITY] {
            assert_eq!(exp2_of_negative(hidden), 0.0);
        }
        assert!(exp2_of_negative(f32::NAN).is_nan());
    }

    #[test]
    fn sums_see_every_element() {
        for count in [0usize, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..count).map(|i| i as f32 - 3.0).collect();
            assert_eq!(sum(&values, |x| x), values.iter().sum::<f32>());
        }
    }
}
