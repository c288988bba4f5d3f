//! This machine, and the cost of a process. The numbers come from /proc; on other systems than Linux they are left
//! out.

use std::fs;

use crate::report::Machine;

/// This machine.
pub(crate) fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, key: &str| {
        let line = text.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let memory = after(&read("/proc/meminfo"), "MemTotal");
    Machine {
        cpu: Some(after(&read("/proc/cpuinfo"), "model name"))
            .filter(|s| !s.is_empty())
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mb: memory.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) / 1024,
        system: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim())
            .trim()
            .to_owned(),
        load_average: read("/proc/loadavg").split(' ').next().and_then(|s| s.parse().ok()).unwrap_or(0.0),
    }
}

/// Linux tells times of processes in hundredths, whatever its own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// The resident memory now, in MB.
    pub(crate) fn memory_mb(self) -> Option<f64> {
        kept_mb(&self.status()?, RESIDENT)
    }

    /// The most resident memory since [`forget_peak`](Self::forget_peak), in MB.
    pub(crate) fn memory_peak_mb(self) -> Option<f64> {
        kept_mb(&self.status()?, PEAK)
    }

    /// Starts the peak anew.
    pub(crate) fn forget_peak(self) {
        // If that is not allowed, the peak is that of the process's whole life, which is no smaller.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.0), "5");
    }

    /// The processor time so far in seconds, of all threads, also of ended ones; good to a hundredth.
    pub(crate) fn cpu_seconds(self) -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // The name before may hold anything: fields are counted from its closing bracket (proc(5): utime, stime).
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(ticks as f64 / TICKS_PER_SECOND)
    }

    fn status(self) -> Option<String> {
        fs::read_to_string(format!("/proc/{}/status", self.0)).ok()
    }
}

/// The lines of /proc/PID/status (proc(5)).
const RESIDENT: &str = "VmRSS:";
const PEAK: &str = "VmHWM:";

/// The memory that a line of a status tells, in MB.
fn kept_mb(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find(|l| l.starts_with(key))?;
    let kb: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kb / 1024.0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn peak_and_resident_memory_are_told_apart() {
        let status = "Name:\tVmRSS: 1\nVmPeak:\t  9216 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    3072 kB\n";
        assert_eq!((kept_mb(status, PEAK), kept_mb(status, RESIDENT)), (Some(2.0), Some(3.0)));
        // A process without memory of its own, such as a zombie, has no such lines.
        assert_eq!(kept_mb("Name:\tzombie\n", RESIDENT), None);
    }

    /// Both numbers are from one text, since other tests allocate between two readings. In one text the kernel
    /// tells no peak below the memory of that moment.
    #[test]
    fn this_process_has_memory_and_used_its_processor() {
        let me = Process(std::process::id());
        let status = me.status().expect("Linux tells it");
        let (resident, peak) = (kept_mb(&status, RESIDENT), kept_mb(&status, PEAK));
        assert!(resident.is_some_and(|mb| mb > 1.0) && peak >= resident, "{status}");
        assert!(me.memory_mb().is_some() && me.memory_peak_mb().is_some());
        // The loop itself takes processor time.
        while me.cpu_seconds().expect("Linux tells it") == 0.0 {}
        assert!(machine().memory_mb > 0);
    }
}
