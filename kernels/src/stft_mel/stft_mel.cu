// The logarithm of a mel spectrogram, in float: bf16 would drown quiet bins beside loud ones.
// x: float [channels, samples]; basis: float [2 * frequencies, n_fft], real parts, then imaginary parts, with the
// window in them; filters: float [bins, frequencies].
struct Spectrum {
    u32 samples, frames, frequencies, n_fft, hop, left, mirrored;
};

DEVICE float sample_at(const float* x, i64 at, const Spectrum& s) {
    if (at < 0) at = s.mirrored ? -at : -1;
    if (at >= s.samples) at = s.mirrored ? 2 * ((i64)s.samples - 1) - at : -1;
    return at < 0 ? 0.f : x[at];
}

// magnitude: float [channels, frames, frequencies]. One warp a frequency of a frame; grid: frames, frequencies / 8, channels.
KERNEL(256)
stft_magnitude(const float* __restrict__ x, const float* __restrict__ basis, float* __restrict__ magnitude, Spectrum s) {
    const u32 frequency = blockIdx.y * (256 / WARP) + threadIdx.x / WARP;
    if (frequency >= s.frequencies) return;  // whole warps leave: no barrier follows
    x += (u64)blockIdx.z * s.samples;
    const float* real = basis + (u64)frequency * s.n_fft;
    const float* imaginary = real + (u64)s.frequencies * s.n_fft;
    float re = 0.f, im = 0.f;
    for (u32 i = threadIdx.x % WARP; i < s.n_fft; i += WARP) {
        const float value = sample_at(x, (i64)blockIdx.x * s.hop + i - s.left, s);
        re += value * real[i], im += value * imaginary[i];
    }
    re = warp_sum(re), im = warp_sum(im);
    if (threadIdx.x % WARP == 0) magnitude[((u64)blockIdx.z * s.frames + blockIdx.x) * s.frequencies + frequency] = sqrtf(re * re + im * im);
}

// out: float [rows, bins]. One thread a bin of a row.
KERNEL(256)
stft_mel(const float* __restrict__ magnitude, const float* __restrict__ filters, float* __restrict__ out, u32 frequencies, u32 bins, u64 count) {
    const u64 e = (u64)blockIdx.x * 256 + threadIdx.x;
    if (e >= count) return;
    const float* row = magnitude + e / bins * frequencies;
    const float* filter = filters + e % bins * frequencies;
    float sum = 0.f;
    for (u32 i = 0; i < frequencies; i++) sum += row[i] * filter[i];
    out[e] = logf(sum > 1e-5f ? sum : 1e-5f);
}
