//! Writes sound as a WAV file of 32-bit floats, the form in which FFmpeg takes it.

/// Interleaved samples; ±1 is full scale.
#[derive(Clone, Copy)]
pub struct Sound<'a> {
    pub rate: u32,
    pub channels: u16,
    pub samples: &'a [f32],
}

/// WAVE_FORMAT_IEEE_FLOAT.
const FORMAT_FLOAT: u16 = 3;
const SAMPLE_BYTES: u32 = 4;

/// The bytes of the file.
///
/// # Errors
/// Tells of samples that are no numbers, that are no whole frames, or that exceed 4 GiB.
pub fn bytes(sound: Sound<'_>) -> Result<Vec<u8>, String> {
    let channels = usize::from(sound.channels);
    if channels == 0 || sound.rate == 0 || sound.samples.is_empty() {
        return Err("it has no sound".into());
    }
    if !sound.samples.len().is_multiple_of(channels) {
        return Err(format!(
            "{} samples are not {channels} channels",
            sound.samples.len()
        ));
    }
    if sound.samples.iter().any(|sample| !sample.is_finite()) {
        return Err("its sound is not finite".into());
    }
    let data_bytes = u32::try_from(sound.samples.len())
        .ok()
        .and_then(|samples| samples.checked_mul(SAMPLE_BYTES))
        .filter(|bytes| *bytes < u32::MAX - 64)
        .ok_or("its sound is longer than a WAV file can be")?;
    let block = sound.channels * SAMPLE_BYTES as u16;
    let mut wav = Vec::with_capacity(44 + data_bytes as usize);
    wav.extend_from_slice(b"RIFF");
    wav.extend_from_slice(&(36 + data_bytes).to_le_bytes());
    wav.extend_from_slice(b"WAVEfmt ");
    wav.extend_from_slice(&16u32.to_le_bytes());
    wav.extend_from_slice(&FORMAT_FLOAT.to_le_bytes());
    wav.extend_from_slice(&sound.channels.to_le_bytes());
    wav.extend_from_slice(&sound.rate.to_le_bytes());
    wav.extend_from_slice(&(sound.rate * u32::from(block)).to_le_bytes());
    wav.extend_from_slice(&block.to_le_bytes());
    wav.extend_from_slice(&(8 * SAMPLE_BYTES as u16).to_le_bytes());
    wav.extend_from_slice(b"data");
    wav.extend_from_slice(&data_bytes.to_le_bytes());
    for sample in sound.samples {
        wav.extend_from_slice(&sample.to_le_bytes());
    }
    Ok(wav)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(channels: u16, samples: &[f32]) -> Result<Vec<u8>, String> {
        bytes(Sound {
            rate: 16_000,
            channels,
            samples,
        })
    }

    #[test]
    fn the_header_counts_what_follows() {
        let wav = of(2, &[0.5, -0.5, 0.25, -0.25]).unwrap();
        assert_eq!(wav.len(), 44 + 16);
        assert_eq!(wav[40..44], 16u32.to_le_bytes());
        assert_eq!(wav[4..8], 52u32.to_le_bytes());
    }

    #[test]
    fn sound_that_no_file_can_hold_is_refused() {
        assert!(of(1, &[]).is_err());
        assert!(of(0, &[0.5]).is_err());
        assert!(of(2, &[0.5; 3]).is_err());
        assert!(of(1, &[f32::NAN]).is_err());
    }
}
