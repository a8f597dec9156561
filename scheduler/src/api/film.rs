//! A film that came with a request: how long it is and how large its pictures are, from its own words.

use std::io::{Read, Seek};

use matroska_demuxer::{MatroskaFile, TrackType};
use schemas::mp4;

use super::read_given::is_matroska;
use crate::{
    admission::{Code, Refusal, Size, Source},
    artifacts::Upload,
};

/// Bytes of a film.
pub const FILM_BYTES_MAX: u64 = 512 << 20;
/// Length of a film.
const SECONDS_MAX: f64 = 120.0;
/// Sides of a picture, in pixels.
const SIDE_MAX: u32 = 8_192;

/// An uploaded film, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Film {
    pub source: Source,
    pub seconds: f64,
    pub size: Size,
}

/// What the file says.
struct Said {
    seconds: f64,
    width: u32,
    height: u32,
}

impl Film {
    /// Measures an upload of the field `video`.
    ///
    /// # Errors
    /// A file that is too large, no film, without picture, or too short or too long.
    pub async fn measure(upload: Upload) -> Result<Self, Refusal> {
        if upload.size() > FILM_BYTES_MAX {
            let why = format!("A film may have at most {FILM_BYTES_MAX} bytes.");
            return Err(Refusal::new(Code::RequestTooLarge, why).about("video"));
        }
        let read = upload.clone();
        let said = tokio::task::spawn_blocking(move || match is_matroska(read.head()) {
            true => from_matroska(read.reader()),
            false => from_mp4(read.reader()),
        });
        // A reader that panics over a file has found it damaged.
        let said = said.await.unwrap_or_else(|_| Err("it is damaged".into()));
        Self::checked(upload, said).map_err(|why| {
            let why = format!("The film in 'video' cannot be used: {why}.");
            Refusal::new(Code::InvalidVideo, why).about("video")
        })
    }

    fn checked(upload: Upload, said: Result<Said, String>) -> Result<Self, String> {
        let said = said?;
        if !(1..=SIDE_MAX).contains(&said.width) || !(1..=SIDE_MAX).contains(&said.height) {
            return Err(format!("its pictures are {} x {}", said.width, said.height));
        }
        if !(1.0..SECONDS_MAX + 1.0).contains(&said.seconds) {
            return Err(format!(
                "it lasts {:.2} seconds; 1 to {SECONDS_MAX} are possible",
                said.seconds
            ));
        }
        Ok(Self {
            source: Source::sent(upload),
            seconds: said.seconds,
            size: Size {
                width: said.width,
                height: said.height,
            },
        })
    }

    /// Whole seconds that it has pictures for.
    pub fn whole_seconds(&self) -> u32 {
        self.seconds as u32
    }

    /// Frames at a rate. FFmpeg may find one more, never one less.
    pub fn frames(&self, fps: u32) -> u32 {
        // What clocks of containers round off.
        const SLACK: f64 = 1e-3;
        (self.seconds * f64::from(fps) + SLACK) as u32
    }
}

fn from_mp4(mut file: impl Read + Seek) -> Result<Said, String> {
    let facts = mp4::read_from(&mut file).map_err(|error| error.to_string())?;
    let picture = facts.picture().ok_or("it has no picture")?;
    if picture.samples == 0 {
        return Err(
            "it is in fragments and does not say how long it is; write it anew with \
                    'ffmpeg -i IN -c copy -movflags +faststart OUT.mp4'"
                .into(),
        );
    }
    Ok(Said {
        seconds: picture.seconds,
        width: picture.width,
        height: picture.height,
    })
}

fn from_matroska(file: impl Read + Seek) -> Result<Said, String> {
    let file = MatroskaFile::open(file).map_err(|error| error.to_string())?;
    let mut tracks = file.tracks().iter();
    let picture = tracks.find(|track| track.track_type() == TrackType::Video);
    let picture = picture.and_then(|track| track.video());
    let picture = picture.ok_or("it has no picture")?;
    let duration = file.info().duration().ok_or(
        "it does not say how long it is; write it anew with 'ffmpeg -i IN -c copy OUT.webm'",
    )?;
    let side = |pixels: std::num::NonZeroU64| u32::try_from(pixels.get()).unwrap_or(u32::MAX);
    Ok(Said {
        seconds: duration * file.info().timestamp_scale().get() as f64 / 1e9,
        width: side(picture.pixel_width()),
        height: side(picture.pixel_height()),
    })
}
