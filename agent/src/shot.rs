//! Shot files: one take, lossless, written by FFmpeg while its later pictures are still decoded.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use diffusion::{Control, Sink, Slate};

use crate::{
    mux::{Ffmpeg, MuxError, Run, Stop, words, write_file},
    wav::{self, Sound},
};

const WHAT: &str = "write a shot";
/// Pieces of a clip that may wait for FFmpeg; then the engine waits.
const PARTS_WAITING: usize = 2;

/// A piece of a clip.
enum Part {
    Open(Slate, Vec<f32>),
    Pictures(Vec<u8>),
}

/// The end that the engine fills.
pub struct Feed {
    parts: SyncSender<Part>,
}

impl Feed {
    /// A piece that nobody takes any more ends the run: FFmpeg has stopped and says why.
    fn send(&self, part: Part) -> Control {
        match self.parts.send(part) {
            Ok(()) => Control::Continue,
            Err(_) => Control::Pause,
        }
    }
}

impl Sink for Feed {
    fn open(&mut self, slate: &Slate, samples: Vec<f32>) -> Control {
        self.send(Part::Open(slate.clone(), samples))
    }

    fn pictures(&mut self, rgb: &[u8]) -> Control {
        self.send(Part::Pictures(rgb.to_vec()))
    }
}

/// Calls `make` with a feed and writes what comes out of it as a shot file at `path`: FFV1 picture and
/// f32 sound in Matroska. Equal clips give equal bytes. The sound lies beside the file as a WAV file
/// while FFmpeg runs.
///
/// Gives what `make` gave, and how the file ended: [`MuxError::Stopped`], without a file, when `make`
/// came back before its clip was whole.
pub fn write<T>(
    ffmpeg: &Ffmpeg,
    path: &Path,
    stop: Stop<'_>,
    make: impl FnOnce(&mut Feed) -> T,
) -> (T, Result<(), MuxError>) {
    let (sender, parts) = sync_channel(PARTS_WAITING);
    thread::scope(|scope| {
        let writer = scope.spawn(move || write_parts(ffmpeg, path, stop, parts));
        let made = make(&mut Feed { parts: sender });
        let written = writer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (made, written)
    })
}

fn write_parts(
    ffmpeg: &Ffmpeg,
    path: &Path,
    stop: Stop<'_>,
    parts: Receiver<Part>,
) -> Result<(), MuxError> {
    let Ok(Part::Open(slate, samples)) = parts.recv() else {
        return Err(MuxError::Stopped { what: WHAT });
    };
    let mut pictures = Pictures::new(&slate, parts)?;
    let wav_path = path.with_extension("wav");
    let sound = Sound {
        rate: slate.sample_rate,
        channels: slate.channels,
        samples: &samples,
    };
    write_file(&wav_path, &wav::bytes(sound).map_err(MuxError::BadClip)?)?;
    drop(samples);
    let run = Run {
        what: WHAT,
        args: arguments(&slate, &wav_path, path),
        stdin: &[],
    };
    let ran = ffmpeg.run_fed(run, &mut pictures, stop);
    let _ = fs::remove_file(&wav_path);
    let ended = match pictures.was_cut {
        true => Err(MuxError::Stopped { what: WHAT }),
        false => ran.map(drop),
    };
    if ended.is_err() {
        let _ = fs::remove_file(path);
    }
    ended
}

fn arguments(slate: &Slate, wav: &Path, path: &Path) -> Vec<std::ffi::OsString> {
    let size = format!("{}x{}", slate.width, slate.height);
    let rate = slate.fps.to_string();
    let mut args = words(&["-f", "rawvideo", "-pixel_format", "rgb24"]);
    args.extend(words(&["-video_size", &size, "-framerate", &rate]));
    args.extend(words(&["-i", "pipe:0", "-i"]));
    args.push(wav.into());
    args.extend(words(&["-map", "0:v:0", "-map", "1:a:0", "-c:v", "ffv1"]));
    args.extend(words(&["-level", "3", "-pix_fmt", "bgr0"]));
    args.extend(words(&["-c:a", "pcm_f32le", "-map_metadata", "-1"]));
    args.extend(words(&["-fflags", "+bitexact", "-flags", "+bitexact"]));
    args.push(path.into());
    args
}

/// The pictures of a clip as one stream of bytes of known length.
struct Pictures {
    parts: Receiver<Part>,
    piece: Vec<u8>,
    at: usize,
    /// Bytes that are still to be read.
    left: u64,
    /// The clip ended before its last picture.
    was_cut: bool,
}

impl Pictures {
    fn new(slate: &Slate, parts: Receiver<Part>) -> Result<Self, MuxError> {
        let frame = u64::from(slate.width) * u64::from(slate.height) * 3;
        let left = frame * u64::from(slate.frames);
        if left == 0 || slate.fps == 0 {
            return Err(MuxError::BadClip(format!(
                "{} frames of {} x {} pixels at {} a second are no film",
                slate.frames, slate.width, slate.height, slate.fps
            )));
        }
        Ok(Self {
            parts,
            piece: Vec::new(),
            at: 0,
            left,
            was_cut: false,
        })
    }
}

impl Read for Pictures {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        while self.at == self.piece.len() {
            let Ok(Part::Pictures(rgb)) = self.parts.recv() else {
                self.was_cut = true;
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            (self.piece, self.at) = (rgb, 0);
        }
        let rest = &self.piece[self.at..];
        let count = rest.len().min(buffer.len()).min(self.left as usize);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
