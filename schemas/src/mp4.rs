//! Reads the boxes of an MP4 file: enough to prove that a film is what was asked for.
//!
//! FFmpeg's exit status says that it believes in its file; this says it from the bytes,
//! and nothing in the product needs ffprobe. Box layouts: ISO/IEC 14496-12.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// A `moov` box of a film of minutes has some hundred kilobytes.
const MOOV_BYTES_MAX: u64 = 64 << 20;
const TOP_BOXES_MAX: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum Mp4Error {
    #[error("cannot read the film")]
    Read(#[from] std::io::Error),
    #[error("the film is not a whole MP4 file: {0}")]
    Malformed(&'static str),
}

/// What an MP4 file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// `moov` comes before `mdat`, so playing starts before the download ends.
    pub fast_start: bool,
    pub tracks: Vec<Track>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    pub kind: TrackKind,
    /// Four letters of the sample entry: `avc1`, `mp4a`.
    pub codec: String,
    /// Presentation size in pixels, turned as a player turns it; 0 for sound.
    pub width: u32,
    pub height: u32,
    /// Frames of a picture track, packets of a sound track.
    pub samples: u64,
    /// What a player shows, after the edit list; in seconds.
    pub seconds: f64,
    /// Sample rate of sound in Hz, 0 for picture.
    pub rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackKind {
    Picture,
    Sound,
    Other,
}

impl Facts {
    pub fn picture(&self) -> Option<&Track> {
        self.tracks.iter().find(|t| t.kind == TrackKind::Picture)
    }

    pub fn sound(&self) -> Option<&Track> {
        self.tracks.iter().find(|t| t.kind == TrackKind::Sound)
    }
}

/// Reads the facts of the file at `path`; only headers and `moov` are read.
pub fn read(path: &Path) -> Result<Facts, Mp4Error> {
    read_from(&mut File::open(path)?)
}

/// Like [`read`], of a file that is open.
pub fn read_from(file: &mut (impl Read + Seek)) -> Result<Facts, Mp4Error> {
    let end = file.seek(SeekFrom::End(0))?;
    let (mut at, mut moov, mut mdat_at) = (0, None, None);
    for _ in 0..TOP_BOXES_MAX {
        if at >= end {
            break;
        }
        let head = top_box(file, at, end)?;
        match &head.kind {
            b"moov" => moov = Some((at, body(file, &head)?)),
            b"mdat" => mdat_at = mdat_at.or(Some(at)),
            _ => {}
        }
        at = head.end;
    }
    let (moov_at, moov) = moov.ok_or(Mp4Error::Malformed("it has no moov box"))?;
    let mdat_at = mdat_at.ok_or(Mp4Error::Malformed("it has no mdat box"))?;
    Ok(Facts {
        fast_start: moov_at < mdat_at,
        tracks: tracks(&moov)?,
    })
}

struct TopBox {
    kind: [u8; 4],
    body_at: u64,
    end: u64,
}

/// The header of the top-level box at `at`: size, kind and, when size is 1, a 64-bit size.
fn top_box(file: &mut (impl Read + Seek), at: u64, file_end: u64) -> Result<TopBox, Mp4Error> {
    file.seek(SeekFrom::Start(at))?;
    let mut head = [0; 16];
    let cut = Mp4Error::Malformed("it ends inside a box header");
    if file_end - at < 8 {
        return Err(cut);
    }
    file.read_exact(&mut head[..8])?;
    let (size, head_bytes) = match u32_at(&head, 0) {
        0 => (file_end - at, 8),
        1 if file_end - at < 16 => return Err(cut),
        1 => {
            file.read_exact(&mut head[8..])?;
            (u64_at(&head, 8), 16)
        }
        size => (u64::from(size), 8),
    };
    let end = at.checked_add(size).filter(|end| *end <= file_end);
    match end {
        Some(end) if size >= head_bytes => Ok(TopBox {
            kind: [head[4], head[5], head[6], head[7]],
            body_at: at + head_bytes,
            end,
        }),
        _ => Err(Mp4Error::Malformed("a box is longer than the file")),
    }
}

fn body(file: &mut (impl Read + Seek), head: &TopBox) -> Result<Vec<u8>, Mp4Error> {
    let bytes = head.end - head.body_at;
    if bytes > MOOV_BYTES_MAX {
        return Err(Mp4Error::Malformed("its moov box is too large"));
    }
    file.seek(SeekFrom::Start(head.body_at))?;
    let mut body = vec![0; usize::try_from(bytes).expect("MOOV_BYTES_MAX fits usize")];
    file.read_exact(&mut body)?;
    Ok(body)
}

fn tracks(moov: &[u8]) -> Result<Vec<Track>, Mp4Error> {
    let mvhd = child(moov, b"mvhd").ok_or(Mp4Error::Malformed("moov has no mvhd"))?;
    let movie = times(mvhd)?;
    children(moov)
        .filter(|(kind, _)| kind == b"trak")
        .map(|(_, trak)| track(trak, movie.scale))
        .collect()
}

fn track(trak: &[u8], movie_scale: u32) -> Result<Track, Mp4Error> {
    let missing = |what| move || Mp4Error::Malformed(what);
    let tkhd = child(trak, b"tkhd").ok_or_else(missing("a track has no tkhd"))?;
    let mdia = child(trak, b"mdia").ok_or_else(missing("a track has no mdia"))?;
    let mdhd = child(mdia, b"mdhd").ok_or_else(missing("a track has no mdhd"))?;
    let hdlr = child(mdia, b"hdlr").ok_or_else(missing("a track has no hdlr"))?;
    let stbl = child(mdia, b"minf")
        .and_then(|minf| child(minf, b"stbl"))
        .ok_or_else(missing("a track has no sample table"))?;
    let stsd = child(stbl, b"stsd").ok_or_else(missing("a track has no stsd"))?;
    let stts = child(stbl, b"stts").ok_or_else(missing("a track has no stts"))?;
    let kind = match slice(hdlr, 8, 4)? {
        b"vide" => TrackKind::Picture,
        b"soun" => TrackKind::Sound,
        _ => TrackKind::Other,
    };
    let media = times(mdhd)?;
    let seconds = match edit_seconds(trak, movie_scale)? {
        Some(seconds) => seconds,
        None => media.duration as f64 / f64::from(media.scale),
    };
    let (width, height) = shown_size(tkhd)?;
    Ok(Track {
        kind,
        codec: String::from_utf8_lossy(slice(stsd, 12, 4)?).into_owned(),
        width,
        height,
        samples: sample_count(stts)?,
        seconds,
        // 8 bytes before the entry, 8 of its header, 24 to the 16.16 rate.
        rate: match kind {
            TrackKind::Sound => u32_at(slice(stsd, 40, 4)?, 0) >> 16,
            _ => 0,
        },
    })
}

/// Width and height of a `tkhd`, which ends with a matrix of nine numbers and both; by a quarter turn they change
/// places.
fn shown_size(tkhd: &[u8]) -> Result<(u32, u32), Mp4Error> {
    let end = tkhd.len().checked_sub(44);
    let end = end.ok_or(Mp4Error::Malformed("a tkhd is too short"))?;
    let word = |place: usize| u32_at(tkhd, end + place * 4);
    let (width, height) = (word(9) >> 16, word(10) >> 16);
    let turned = word(0) == 0 && word(1) != 0;
    Ok(if turned {
        (height, width)
    } else {
        (width, height)
    })
}

struct Times {
    scale: u32,
    duration: u64,
}

/// Time scale and duration of an `mvhd` or `mdhd`, which begin alike.
fn times(header: &[u8]) -> Result<Times, Mp4Error> {
    let times = match slice(header, 0, 1)?[0] {
        0 => {
            let fields = slice(header, 12, 8)?;
            Times {
                scale: u32_at(fields, 0),
                duration: u64::from(u32_at(fields, 4)),
            }
        }
        1 => {
            let fields = slice(header, 20, 12)?;
            Times {
                scale: u32_at(fields, 0),
                duration: u64_at(fields, 4),
            }
        }
        _ => return Err(Mp4Error::Malformed("a header has an unknown version")),
    };
    match times.scale {
        0 => Err(Mp4Error::Malformed("a time scale is 0")),
        _ => Ok(times),
    }
}

/// Sum of the edits that show media (AAC hides its 1,024 priming samples by such an edit).
fn edit_seconds(trak: &[u8], movie_scale: u32) -> Result<Option<f64>, Mp4Error> {
    let Some(elst) = child(trak, b"edts").and_then(|edts| child(edts, b"elst")) else {
        return Ok(None);
    };
    let is_long = slice(elst, 0, 1)?[0] == 1;
    let entry_bytes = if is_long { 20 } else { 12 };
    let mut units = 0u64;
    for entry in table(elst, entry_bytes)?.chunks_exact(entry_bytes) {
        let (duration, media_time) = match is_long {
            true => (u64_at(entry, 0), u64_at(entry, 8) as i64),
            false => (
                u64::from(u32_at(entry, 0)),
                i64::from(u32_at(entry, 4) as i32),
            ),
        };
        if media_time >= 0 {
            units = units.saturating_add(duration);
        }
    }
    Ok(Some(units as f64 / f64::from(movie_scale)))
}

fn sample_count(stts: &[u8]) -> Result<u64, Mp4Error> {
    Ok(table(stts, 8)?
        .chunks_exact(8)
        .map(|run| u64::from(u32_at(run, 0)))
        .sum())
}

/// The entries of a full box: version and flags, a count, then the entries.
fn table(full_box: &[u8], entry_bytes: usize) -> Result<&[u8], Mp4Error> {
    let count = u32_at(slice(full_box, 4, 4)?, 0) as usize;
    let bytes = count
        .checked_mul(entry_bytes)
        .ok_or(Mp4Error::Malformed("a table is too long"))?;
    slice(full_box, 8, bytes)
}

fn child<'a>(parent: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    children(parent)
        .find(|(found, _)| found == kind)
        .map(|(_, body)| body)
}

/// The boxes inside a box body; ends at the first that does not fit.
fn children(mut rest: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let head = rest.get(..8)?;
        let size = u32_at(head, 0) as usize;
        let whole = rest.get(..size).filter(|whole| whole.len() >= 8)?;
        rest = &rest[size..];
        Some(([head[4], head[5], head[6], head[7]], &whole[8..]))
    })
}

fn slice(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], Mp4Error> {
    let end = at
        .checked_add(len)
        .ok_or(Mp4Error::Malformed("a box is too long"))?;
    bytes
        .get(at..end)
        .ok_or(Mp4Error::Malformed("a box is too short"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len() + 8).unwrap();
        [&size.to_be_bytes(), &kind[..], body].concat()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    fn picture_track() -> Vec<u8> {
        let mut tkhd = vec![0; 84];
        tkhd[76..80].copy_from_slice(&(320u32 << 16).to_be_bytes());
        tkhd[80..84].copy_from_slice(&(240u32 << 16).to_be_bytes());
        let elst = boxed(b"elst", &words(&[0, 1, 2_000, 0, 0x10000]));
        let stsd = [words(&[0, 1, 16]), b"avc1".to_vec()].concat();
        let stbl = [
            boxed(b"stsd", &stsd),
            boxed(b"stts", &words(&[0, 2, 30, 1, 2, 1])),
        ]
        .concat();
        let hdlr = [words(&[0, 0]), b"vide".to_vec()].concat();
        let mdia = [
            boxed(b"mdhd", &words(&[0, 0, 0, 16, 33])),
            boxed(b"hdlr", &hdlr),
            boxed(b"minf", &boxed(b"stbl", &stbl)),
        ];
        let parts = [
            boxed(b"tkhd", &tkhd),
            boxed(b"edts", &elst),
            boxed(b"mdia", &mdia.concat()),
        ];
        boxed(b"trak", &parts.concat())
    }

    fn read_bytes(bytes: &[u8]) -> Result<Facts, Mp4Error> {
        read_from(&mut std::io::Cursor::new(bytes))
    }

    #[test]
    fn the_facts_of_a_track_come_from_its_boxes() {
        let mvhd = boxed(b"mvhd", &words(&[0, 0, 0, 1_000, 2_000]));
        let moov = boxed(b"moov", &[mvhd, picture_track()].concat());
        let facts = read_bytes(&[moov.clone(), boxed(b"mdat", b"..")].concat()).unwrap();
        assert!(facts.fast_start);
        let picture = facts.picture().unwrap();
        assert_eq!(
            (picture.width, picture.height, picture.samples),
            (320, 240, 32)
        );
        assert_eq!((picture.seconds, picture.codec.as_str()), (2.0, "avc1"));
        assert!(facts.sound().is_none());
        let slow = read_bytes(&[boxed(b"mdat", b".."), moov].concat()).unwrap();
        assert!(!slow.fast_start);
    }

    #[test]
    fn a_quarter_turn_makes_a_film_upright() {
        let mut tkhd = vec![0; 84];
        for (at, word) in [(44, 0x10000), (76, 320 << 16), (80, 240 << 16)] {
            tkhd[at..at + 4].copy_from_slice(&u32::to_be_bytes(word));
        }
        assert_eq!(shown_size(&tkhd).unwrap(), (240, 320));
        tkhd[40..44].copy_from_slice(&0x10000u32.to_be_bytes());
        tkhd[44..48].fill(0);
        assert_eq!(shown_size(&tkhd).unwrap(), (320, 240));
        assert!(shown_size(&tkhd[..40]).is_err());
    }

    #[test]
    fn a_cut_file_is_refused() {
        let mvhd = boxed(b"mvhd", &words(&[0, 0, 0, 1_000, 2_000]));
        let moov = boxed(b"moov", &[mvhd, picture_track()].concat());
        let whole = [moov, boxed(b"mdat", b"..")].concat();
        for end in [0, 4, 12, whole.len() / 2, whole.len() - 1] {
            assert!(
                read_bytes(&whole[..end]).is_err(),
                "{end} bytes were taken for a film"
            );
        }
    }
}
