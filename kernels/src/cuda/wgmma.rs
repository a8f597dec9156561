//! The products of a warpgroup as inline PTX, one function for each width. Every accumulator register
//! is an operand of its own, so the text is written here instead of by hand.

/// Widths of scores, keys of a block, and of convolutions, output channels of a tile.
const SCORE_WIDTHS: &[usize] = &[128, 176, 256];
/// Widths of outputs: channels of a head.
const OUTPUT_WIDTHS: &[usize] = &[64, 128];

/// `wgmma_ss<N>` (both operands in shared memory, K-major) and `wgmma_rs<N>` (left in registers,
/// right N-major), bf16 in, f32 out, 64 rows and 16 of K each.
pub(super) fn source() -> String {
    let mut text = String::from(
        "template <int N> DEVICE void wgmma_ss(float (&d)[N / 2], u64 left, u64 right, int keep);\n\
         template <int N> DEVICE void wgmma_rs(float (&d)[N / 2], const u32 (&a)[4], u64 right, int keep);\n",
    );
    SCORE_WIDTHS
        .iter()
        .for_each(|width| text += &from_shared(*width));
    OUTPUT_WIDTHS
        .iter()
        .for_each(|width| text += &from_registers(*width));
    text
}

/// `%first, %first+1, …` and `"+f"(d[0]), …`.
fn accumulators(count: usize) -> (String, String) {
    let numbers: Vec<String> = (0..count).map(|i| format!("%{i}")).collect();
    let operands: Vec<String> = (0..count).map(|i| format!("\"+f\"(d[{i}])")).collect();
    (numbers.join(", "), operands.join(", "))
}

fn from_shared(width: usize) -> String {
    let count = width / 2;
    let (numbers, operands) = accumulators(count);
    let (left, right, keep) = (count, count + 1, count + 2);
    format!(
        "template <>\nDEVICE_MEMBER void wgmma_ss<{width}>(float (&d)[{count}], u64 left, u64 right, int keep) {{\n\
         asm volatile(\"{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{keep}, 0;\\n\
         wgmma.mma_async.sync.aligned.m64n{width}k16.f32.bf16.bf16 {{{numbers}}}, %{left}, %{right}, p, 1, 1, 0, 0;\\n}}\\n\"\n\
         : {operands} : \"l\"(left), \"l\"(right), \"r\"(keep));\n}}\n"
    )
}

fn from_registers(width: usize) -> String {
    let count = width / 2;
    let (numbers, operands) = accumulators(count);
    let (a, right, keep) = (count, count + 4, count + 5);
    let left = format!("%{a}, %{}, %{}, %{}", a + 1, a + 2, a + 3);
    format!(
        "template <>\nDEVICE_MEMBER void wgmma_rs<{width}>(float (&d)[{count}], const u32 (&a)[4], u64 right, int keep) {{\n\
         asm volatile(\"{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{keep}, 0;\\n\
         wgmma.mma_async.sync.aligned.m64n{width}k16.f32.bf16.bf16 {{{numbers}}}, {{{left}}}, %{right}, p, 1, 1, 1;\\n}}\\n\"\n\
         : {operands} : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(right), \"r\"(keep));\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operand_is_named_once() {
        let text = from_registers(64);
        assert!(text.contains("m64n64k16") && text.contains("%31}, {%32, %33, %34, %35}, %36, p"));
        assert_eq!(text.matches("+f").count(), 32);
        assert!(from_shared(176).contains("%87}, %88, %89, p, 1, 1, 0, 0"));
    }
}
