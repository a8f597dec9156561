//! Values that change places, on a GPU. Shapes are those of the ops of the same names.

use super::{Strides, Write};
use crate::KernelError;
use crate::cuda::{Arguments, Array, Gpu, Launch};
use crate::modulation::cuda::{flat_blocks, module_of};

const MODULES: [&str; 2] = ["space_depth_bf16", "space_depth_f32"];

fn each_value(
    gpu: &Gpu,
    entry: &'static str,
    x: &Array,
    out: &Array,
    words: &[u32],
    whole: bool,
    threads: usize,
) -> Result<(), KernelError> {
    if x.element() != out.element() {
        return Err(KernelError::shape(entry, "out", x.element(), out));
    }
    let arguments = Arguments::new().array(x).array(out);
    let arguments = match whole {
        true => arguments.words(words),
        false => words
            .iter()
            .fold(arguments, |arguments, word| arguments.word(*word)),
    };
    gpu.launch(&Launch {
        module: module_of(entry, MODULES, x.element())?,
        entry,
        blocks: [flat_blocks(threads, 1), 1, 1],
        threads: 256,
        shared_bytes: 0,
        arguments: arguments.long(threads as u64),
    })
}

fn five(op: &'static str, what: &'static str, array: &Array) -> Result<[usize; 5], KernelError> {
    array
        .dims()
        .try_into()
        .map_err(|_| KernelError::shape(op, what, "5 dimensions", array.dims()))
}

fn spread(
    gpu: &Gpu,
    entry: &'static str,
    x: &Array,
    [st, sh, sw]: Strides,
    write: Write,
    out: &Array,
    expected: impl Fn([usize; 5], [usize; 5]) -> Option<[usize; 5]>,
) -> Result<(), KernelError> {
    let (from, to) = (five(entry, "x", x)?, five(entry, "out", out)?);
    if st * sh * sw == 0 || expected(from, to) != Some(to) {
        return Err(KernelError::shape(
            entry,
            "out",
            format!("{from:?} spread by {:?}", [st, sh, sw]),
            to,
        ));
    }
    let mut words: Vec<u32> = from[1..]
        .iter()
        .chain(&to[1..])
        .map(|dim| *dim as u32)
        .collect();
    words.extend([st, sh, sw, usize::from(write == Write::Add)].map(|value| value as u32));
    let (positions, channels) = (st * sh * sw, from[4]);
    let by8 = entry == "depth_to_space"
        && [1, 2, 4, 8].contains(&positions)
        && (channels / positions).is_multiple_of(8);
    match by8 {
        true => {
            let groups = x.row_count() * (to[4] / 8);
            each_value(gpu, "depth_to_space_by8", x, out, &words, true, groups)
        }
        false => each_value(gpu, entry, x, out, &words, true, out.count()),
    }
}

/// See [`super::depth_to_space`].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn depth_to_space(
    gpu: &Gpu,
    x: &Array,
    strides: Strides,
    write: Write,
    out: &Array,
) -> Result<(), KernelError> {
    let [st, sh, sw] = strides;
    spread(
        gpu,
        "depth_to_space",
        x,
        strides,
        write,
        out,
        |[b, t, h, w, c], [_, out_time, .., out]| {
            let depth = c / (st * sh * sw);
            let fits = c > 0 && t > 0 && depth * st * sh * sw == c && out.is_multiple_of(depth);
            let time = if out_time == t * st {
                out_time
            } else {
                t * st - (st - 1)
            };
            fits.then(|| [b, time, h * sh, w * sw, out])
        },
    )
}

/// See [`super::space_to_depth`].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn space_to_depth(
    gpu: &Gpu,
    x: &Array,
    strides: Strides,
    write: Write,
    out: &Array,
) -> Result<(), KernelError> {
    let [st, sh, sw] = strides;
    spread(
        gpu,
        "space_to_depth",
        x,
        strides,
        write,
        out,
        |[b, t, h, w, c], [.., out]| {
            let fits =
                (t + st - 1).is_multiple_of(st) && h.is_multiple_of(sh) && w.is_multiple_of(sw);
            let fits = fits && out > 0 && (c * st * sh * sw).is_multiple_of(out);
            fits.then(|| [b, t.div_ceil(st), h / sh, w / sw, out])
        },
    )
}

/// See [`crate::patchify::patchify`].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn patchify(gpu: &Gpu, x: &Array, patch: usize, out: &Array) -> Result<(), KernelError> {
    let [b, t, h, w, c] = five("patchify", "x", x)?;
    let fits = patch > 0 && h.is_multiple_of(patch) && w.is_multiple_of(patch);
    if !fits || out.dims() != [b, t, h / patch, w / patch, c * patch * patch] {
        return Err(KernelError::shape(
            "patchify",
            "out",
            format!("{:?} in squares of {patch}", x.dims()),
            out.dims(),
        ));
    }
    let words = [w / patch, c * patch * patch, patch].map(|value| value as u32);
    each_value(gpu, "patchify", x, out, &words, false, out.count())
}

/// See [`crate::patchify::unpatchify`].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn unpatchify(gpu: &Gpu, x: &Array, patch: usize, out: &Array) -> Result<(), KernelError> {
    let [b, t, h, w, c] = five("unpatchify", "x", x)?;
    let fits = patch > 0 && c.is_multiple_of(patch * patch);
    if !fits || out.dims() != [b, t, h * patch, w * patch, c / (patch * patch)] {
        return Err(KernelError::shape(
            "unpatchify",
            "out",
            format!("{:?} from squares of {patch}", x.dims()),
            out.dims(),
        ));
    }
    each_value(
        gpu,
        "unpatchify",
        x,
        out,
        &[w, c, patch].map(|value| value as u32),
        false,
        out.count(),
    )
}

/// See [`crate::upsample_nearest::upsample_nearest`].
///
/// # Errors
/// [`KernelError::Shape`], [`KernelError::Unsupported`], and what a launch gives.
pub fn upsample_nearest(gpu: &Gpu, x: &Array, out: &Array) -> Result<(), KernelError> {
    const OP: &str = "upsample_nearest";
    let [b, h, w, c] = *x.dims() else {
        return Err(KernelError::shape(OP, "x", "4 dimensions", x.dims()));
    };
    if out.dims() != [b, 2 * h, 2 * w, c] {
        return Err(KernelError::shape(
            OP,
            "out",
            [b, 2 * h, 2 * w, c],
            out.dims(),
        ));
    }
    let words = [w as u32, c as u32];
    each_value(gpu, OP, x, out, &words, false, out.count())
}

/// x [batch, time, height, width, channels] with `rows` and `columns` mirrored pixels on each side.
///
/// # Errors
/// [`KernelError::Shape`]; [`KernelError::Unsupported`] for channels that are no multiple of 8 or borders as
/// wide as the picture; what a launch gives.
pub(crate) fn mirror_border(
    gpu: &Gpu,
    x: &Array,
    [rows, columns]: [usize; 2],
    out: &Array,
) -> Result<(), KernelError> {
    const OP: &str = "mirror_border";
    let [b, t, h, w, c] = five(OP, "x", x)?;
    if !c.is_multiple_of(8) || rows >= h || columns >= w {
        let why = format!("a border of {rows} and {columns} around {:?}", x.dims());
        return Err(KernelError::unsupported(OP, why));
    }
    let dims = [b, t, h + 2 * rows, w + 2 * columns, c];
    out.expect(OP, "out", x.element(), &dims)?;
    let words = [h, w, c, rows, columns].map(|value| value as u32);
    each_value(gpu, OP, x, out, &words, false, out.count() / 8)
}
