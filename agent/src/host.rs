//! What the kernel says of this machine and this process: memory and processor.

use schemas::agent::DeviceSample;

/// A reading of the CPU as the device with this index.
pub fn sample(index: u32) -> DeviceSample {
    DeviceSample {
        index,
        memory_used_bytes: resident_bytes(),
        memory_total_bytes: memory_total_bytes(),
        ..DeviceSample::default()
    }
}

/// Memory of the machine in bytes.
pub fn memory_total_bytes() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// Memory that this process holds, in bytes.
pub fn resident_bytes() -> Option<u64> {
    kilobytes(
        &std::fs::read_to_string("/proc/self/status").ok()?,
        "VmRSS:",
    )
}

/// Most memory that this process holds from some moment on.
#[derive(Debug)]
pub struct PeakWatch {
    before: u64,
}

impl PeakWatch {
    /// Lets the peak begin anew; `None` where the kernel does not allow that.
    pub fn start() -> Option<Self> {
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self {
            before: resident_bytes()?,
        })
    }

    /// Most bytes at once beyond those when it began.
    pub fn grown_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let most = kilobytes(&status, "VmHWM:")?;
        Some(most.saturating_sub(self.before))
    }
}

/// Free space in bytes on the disk of `path`.
pub fn disk_free_bytes(path: &std::path::Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail * disk.f_frsize)
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(field))?;
    let kilobytes: u64 = line[field.len()..]
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .ok()?;
    Some(kilobytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(
            kilobytes("A: 1 kB\nMemTotal:   16 kB\n", "MemTotal:"),
            Some(16_384)
        );
        assert_eq!(kilobytes("A: 1 kB\n", "MemTotal:"), None);
        if let Some(watch) = PeakWatch::start() {
            drop(std::hint::black_box(vec![1_u8; 32 << 20]));
            let grown = watch.grown_bytes().unwrap();
            assert!((24 << 20..256 << 20).contains(&grown), "{grown}");
        }
        let sample = sample(0);
        assert!(sample.memory_used_bytes.unwrap() < sample.memory_total_bytes.unwrap());
        assert!(disk_free_bytes(std::path::Path::new("/")).is_ok());
    }
}
