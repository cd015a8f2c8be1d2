//! Metrics about the process, with the names that dashboards expect. They are read from `/proc` when metrics
//! are collected. Without `/proc`, they are zero.

use std::{
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{gauge::ConstGauge, info::Info},
    registry::Registry,
};

/// Registers metrics about the process, and its version as the label of `{build}_info`.
#[expect(clippy::disallowed_methods, reason = "the start time of the process is read once")]
pub fn register_process(registry: &mut Registry, build: &str, version: &'static str) {
    let info = Info::new([("version", version)]);
    registry.register(build, "Version of the program", info);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    registry.register_collector(Box::new(Process { started: since.as_secs_f64() }));
}

#[derive(Debug)]
struct Process {
    started: f64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let files = fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or_default();
        let gauges = [
            (
                "process_resident_memory_bytes",
                "Resident memory of the process",
                kib(&status, "VmRSS").unwrap_or_default() * 1_024,
            ),
            (
                "process_open_fds",
                "Open file descriptors of the process",
                i64::try_from(files).unwrap_or(i64::MAX),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let started = ConstGauge::new(self.started);
        let help = "Start time of the process, in seconds since 1970";
        started.encode(encoder.encode_descriptor(
            "process_start_time_seconds",
            help,
            None,
            started.metric_type(),
        )?)
    }
}

/// The value of a line of `/proc/self/status`, in KiB.
fn kib(status: &str, name: &str) -> Option<i64> {
    let line = status.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_text;

    use super::*;

    #[test]
    fn metrics_of_the_process() {
        let mut registry = Registry::default();
        register_process(&mut registry, "backscroll_build", "1.2.3");
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("backscroll_build_info{version=\"1.2.3\"} 1"), "{text}");
        let memory = text.lines().find_map(|it| it.strip_prefix("process_resident_memory_bytes "));
        assert!(memory.unwrap().parse::<i64>().unwrap() > 1 << 20, "{text}");
        assert!(text.contains("process_open_fds "), "{text}");
    }
}
