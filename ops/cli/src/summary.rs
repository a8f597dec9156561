//! One line about a finished film.

use schemas::mp4::Facts;

/// Size, frames, rate, length and sound, as the file itself says.
pub fn line(facts: &Facts) -> String {
    let (Some(picture), Some(sound)) = (facts.picture(), facts.sound()) else {
        return "a film without picture or sound".into();
    };
    let fps = picture.samples as f64 / picture.seconds;
    format!(
        "{}x{}, {} frames at {} fps, {:.2} s, sound at {} Hz",
        picture.width,
        picture.height,
        picture.samples,
        fps_text(fps),
        picture.seconds,
        sound.rate
    )
}

/// 16 and 23.976 both read as people write them.
fn fps_text(fps: f64) -> String {
    let text = format!("{fps:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use schemas::mp4::{Track, TrackKind};

    use super::*;

    #[test]
    fn the_line_says_what_the_file_is() {
        let picture = Track {
            kind: TrackKind::Picture,
            codec: "avc1".into(),
            width: 720,
            height: 1280,
            samples: 64,
            seconds: 4.0,
            rate: 0,
        };
        let sound = Track {
            kind: TrackKind::Sound,
            rate: 48_000,
            ..picture.clone()
        };
        let facts = Facts {
            fast_start: true,
            tracks: vec![picture, sound],
        };
        assert_eq!(
            line(&facts),
            "720x1280, 64 frames at 16 fps, 4.00 s, sound at 48000 Hz"
        );
        assert_eq!(fps_text(24_000.0 / 1_001.0), "23.976");
    }
}
