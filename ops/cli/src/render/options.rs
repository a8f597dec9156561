//! Options of `dailies render` beyond the film itself: what is given, how it is guided, in how many
//! stages it is made.

use std::path::{Path, PathBuf};

use agent::given::Fit;
use clap::Args;
use diffusion::{GuidanceChanges, Refine, Shift, Span, guidance::StreamChanges};

/// Files that are given of the film.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "What is given")]
pub struct GivenArgs {
    /// Last frame of the film.
    #[arg(long, value_name = "FILE")]
    pub last_image: Option<PathBuf>,
    /// Picture at a time of the film, such as 1.5=cat.png. May be given more than once.
    #[arg(long = "keyframe", value_name = "SECONDS=FILE", value_parser = keyframe)]
    pub keyframes: Vec<Keyframe>,
    /// How firmly these pictures are kept, above 0; at 1 they do not change.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub strength: f32,
    /// How pictures of another aspect fit: cut at the sides, or whole with black around.
    #[arg(long, value_name = "HOW", default_value = "cover", value_parser = ["cover", "contain"])]
    pub fit: String,
    /// Sound of the film (any file with sound); the picture follows it.
    #[arg(long, value_name = "FILE")]
    pub audio: Option<PathBuf>,
    /// Picture of the film (any video file); the sound follows it. With --retake its sound stays too.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["continue_from", "image", "last_image", "keyframes"])]
    pub video: Option<PathBuf>,
    /// Part of --video to make anew: seconds and what, one of video, audio and both. All else stays.
    #[arg(long, value_name = "FROM..TO=WHAT", value_parser = retake, requires = "video")]
    pub retake: Option<Retake>,
    /// Film to go on from: its end, picture and sound, is where the new film begins. The result is
    /// that film and --seconds more.
    #[arg(long = "continue", value_name = "FILE", conflicts_with_all = ["image", "audio"])]
    pub continue_from: Option<PathBuf>,
    /// Seconds of the film before that --continue looks at.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 1.0,
        requires = "continue_from"
    )]
    pub context: f64,
}

/// A picture at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyframe {
    pub second: f64,
    pub path: PathBuf,
}

/// What of a given film is made anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retake {
    pub span: Span,
    pub picture: bool,
    pub sound: bool,
}

impl GivenArgs {
    pub fn fit(&self) -> Fit {
        match self.fit.as_str() {
            "contain" => Fit::Contain,
            _ => Fit::Cover,
        }
    }

    /// The file whose sound is given: a song of its own, or that of a film to retake.
    pub fn sound(&self) -> Option<&Path> {
        let own = self.audio.as_deref();
        own.or_else(|| self.retake.and(self.video.as_deref()))
    }
}

fn keyframe(text: &str) -> Result<Keyframe, String> {
    let (second, path) = text
        .split_once('=')
        .ok_or("write it as SECONDS=FILE, such as 1.5=cat.png")?;
    let second: f64 = second
        .parse()
        .map_err(|_| format!("'{second}' is no number of seconds"))?;
    if !(second.is_finite() && second >= 0.0 && !path.is_empty()) {
        return Err("the time must not be negative, and a file must follow it".to_owned());
    }
    let path = path.into();
    Ok(Keyframe { second, path })
}

fn retake(text: &str) -> Result<Retake, String> {
    let form = "write it as FROM..TO=WHAT, such as 1.0..2.0=video";
    let (times, what) = text.split_once('=').ok_or(form)?;
    let (from, to) = times.split_once("..").ok_or(form)?;
    let second = |text: &str| text.parse::<f64>().map_err(|_| form.to_owned());
    let (start_s, end_s) = (second(from)?, second(to)?);
    if !(start_s >= 0.0 && start_s < end_s && end_s.is_finite()) {
        return Err(format!("{start_s} to {end_s} s is no stretch of a film"));
    }
    let (picture, sound) = match what {
        "video" => (true, false),
        "audio" => (false, true),
        "both" => (true, true),
        _ => return Err(format!("'{what}' is none of video, audio and both")),
    };
    let span = Span { start_s, end_s };
    Ok(Retake {
        span,
        picture,
        sound,
    })
}

/// Guidance and noise levels that differ from what the model recommends.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Guidance, for picture and sound apart")]
pub struct TuneArgs {
    /// How closely the sound follows the prompt [default: --guidance, or the model's]
    #[arg(long, value_name = "SCALE")]
    audio_guidance: Option<f32>,
    /// Away from a picture whose self-attention is skipped (STG) [default: the model's; 0 is off]
    #[arg(long, value_name = "WEIGHT")]
    stg: Option<f32>,
    /// The same for the sound.
    #[arg(long, value_name = "WEIGHT")]
    audio_stg: Option<f32>,
    /// Blocks that STG skips, such as 28 or 1,2 [default: the model's]
    #[arg(long, value_name = "BLOCKS", value_delimiter = ',')]
    stg_blocks: Vec<u32>,
    /// How much the picture heeds the sound [default: the model's; 1 is off]
    #[arg(long, value_name = "WEIGHT")]
    modality: Option<f32>,
    /// How much the sound heeds the picture.
    #[arg(long, value_name = "WEIGHT")]
    audio_modality: Option<f32>,
    /// How far guidance may not change the picture's contrast, 0 to 1 [default: the model's]
    #[arg(long, value_name = "SHARE")]
    rescale: Option<f32>,
    /// The same for the sound.
    #[arg(long, value_name = "SHARE")]
    audio_rescale: Option<f32>,
    /// Size that noise levels are shifted for: the film's own, or 4096 tokens as the makers of
    /// LTX-2 do. Models with a fixed list of levels do not heed it.
    #[arg(long, value_name = "HOW", default_value = "actual", value_parser = ["actual", "fixed4096"])]
    shift: String,
}

impl TuneArgs {
    /// On top of one scale for both streams.
    pub fn changes(&self, scale: Option<f32>) -> GuidanceChanges {
        GuidanceChanges {
            video: StreamChanges {
                scale,
                perturbed: self.stg,
                modality: self.modality,
                rescale: self.rescale,
            },
            audio: StreamChanges {
                scale: self.audio_guidance.or(scale),
                perturbed: self.audio_stg,
                modality: self.audio_modality,
                rescale: self.audio_rescale,
            },
            perturbed_blocks: Some(self.stg_blocks.clone()).filter(|blocks| !blocks.is_empty()),
        }
    }

    pub fn shift(&self) -> Shift {
        match self.shift.as_str() {
            "fixed4096" => Shift::Fixed4096,
            _ => Shift::Actual,
        }
    }
}

/// Whether the film is made in two stages.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Two stages")]
pub struct StageArgs {
    /// Make the film at half the size first and refine it at full size in three steps. Needs weights
    /// with a latent_upsampler folder.
    #[arg(long)]
    two_stage: bool,
    /// Folder whose transformer refines, such as a distilled model [default: that of --weights]
    #[arg(long, value_name = "DIR", requires = "two_stage")]
    pub refiner: Option<PathBuf>,
    /// How far the refined film keeps colours of the small one, 0 to 1.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        requires = "two_stage"
    )]
    adain: f32,
    /// How much extremes of the small film are brought down, 0 to 1.
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 0.0,
        requires = "two_stage"
    )]
    tone_map: f32,
}

impl StageArgs {
    pub fn refine(&self) -> Option<Refine> {
        self.two_stage.then_some(Refine {
            adain: self.adain,
            tone_map: self.tone_map,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_and_stretches_are_read_or_refused_with_the_form() {
        let cat = keyframe("1.5=a=b.png").unwrap();
        assert_eq!((cat.second, cat.path), (1.5, PathBuf::from("a=b.png")));
        for wrong in ["1.5", "x=a.png", "-1=a.png", "nan=a.png", "1="] {
            assert!(keyframe(wrong).is_err(), "{wrong}");
        }
        let both = retake("1..2.5=both").unwrap();
        assert!(both.picture && both.sound && both.span.end_s == 2.5);
        assert!(retake("0..1=video").unwrap().picture && !retake("0..1=video").unwrap().sound);
        for wrong in [
            "1..2",
            "1=video",
            "2..1=video",
            "1..2=taste",
            "a..b=both",
            "-1..2=both",
        ] {
            assert!(retake(wrong).is_err(), "{wrong}");
        }
    }
}
