//! The clock (criterion) and the scales: peak memory, bytes written.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use criterion::{Criterion, SamplingMode};
use serde_json::{Value, json};

/// How often and how long a work is measured in one turn.
pub enum Effort {
    /// So many samples in about so many seconds.
    Samples { samples: usize, seconds: u64 },
    /// So many calls, each a sample.
    Calls(u32),
}

/// What a work cost, without what prepared it.
pub struct Cost {
    time: Duration,
    cpu: Duration,
    written: u64,
}

/// Measures `once`, which answers what the work cost; `per` is how many things one call does. The report
/// has nanoseconds a thing, one number a sample.
///
/// With `BENCH_CALLS` in the environment it makes so many calls and nothing else: for a profiler. Works of which
/// one call takes seconds are not left to criterion, which wants ten samples: see [`Effort::calls`].
pub fn measure(folder: &Path, effort: &Effort, per: u64, mut once: impl FnMut() -> Cost) -> Value {
    if let Some(calls) =
        std::env::var("BENCH_CALLS").ok().and_then(|calls| calls.parse::<u32>().ok())
    {
        for _ in 0..calls {
            once();
        }
        return Value::Null;
    }
    once();
    forget_peak();
    let (samples, seconds) = match *effort {
        Effort::Samples { samples, seconds } => (samples, seconds),
        Effort::Calls(calls) => {
            let costs: Vec<Cost> = (0..calls).map(|_| once()).collect();
            let each = f64::from(calls) * per as f64;
            return json!({
                "nanoseconds": costs.iter().map(|cost| cost.time.as_nanos() as f64 / per as f64).collect::<Vec<_>>(),
                "calls": calls,
                "cpu": costs.iter().map(|cost| cost.cpu.as_nanos() as f64).sum::<f64>() / each,
                "written": costs.iter().map(|cost| cost.written as f64).sum::<f64>() / each,
                "peak": peak(),
            });
        }
    };
    let (mut calls, mut written, mut cpu) = (0_u64, 0_u64, Duration::ZERO);
    let mut criterion = Criterion::default()
        .without_plots()
        .output_directory(folder)
        .sample_size(samples)
        .nresamples(1001)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(seconds));
    let mut group = criterion.benchmark_group("work");
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function("once", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut total = Duration::ZERO;
            for _ in 0..iterations {
                let cost = once();
                total += cost.time;
                written += cost.written;
                cpu += cost.cpu;
                calls += 1;
            }
            total
        });
    });
    group.finish();
    let samples = fs::read_to_string(folder.join("work/once/new/sample.json"))
        .expect("criterion writes its samples");
    let samples: Value = serde_json::from_str(&samples).expect("JSON");
    let column = |name: &str| -> Vec<f64> {
        let values = samples[name].as_array().expect("a column");
        values.iter().filter_map(Value::as_f64).collect()
    };
    let nanoseconds: Vec<f64> = column("times")
        .iter()
        .zip(column("iters"))
        .map(|(time, iterations)| time / iterations / per as f64)
        .collect();
    json!({
        "nanoseconds": nanoseconds,
        "calls": calls,
        "cpu": cpu.as_nanos() as f64 / calls as f64 / per as f64,
        "written": written as f64 / calls as f64 / per as f64,
        "peak": peak(),
    })
}

/// Measures the only call there can be.
pub fn measure_once(per: u64, once: impl FnOnce() -> Cost) -> Value {
    forget_peak();
    let cost = once();
    json!({
        "nanoseconds": [cost.time.as_nanos() as f64 / per as f64],
        "calls": 1,
        "cpu": cost.cpu.as_nanos() as f64 / per as f64,
        "written": cost.written as f64 / per as f64,
        "peak": peak(),
    })
}

impl Cost {
    /// As a report of its own.
    pub fn report(&self) -> Value {
        json!({
            "time": self.time.as_nanos() as f64,
            "cpu": self.cpu.as_nanos() as f64,
            "written": self.written,
            "peak": peak(),
        })
    }
}

/// What it costs.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Cost, T) {
    let written = bytes_written();
    let cpu = cpu_time();
    let start = Instant::now();
    let result = work();
    let time = start.elapsed();
    (Cost { time, cpu: cpu_time() - cpu, written: bytes_written() - written }, result)
}

/// The processor time all threads of this process have taken.
fn cpu_time() -> Duration {
    let time = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID.now().expect("the kernel tells");
    Duration::from(time)
}

/// What this process has given to `write` and its like since it began, but for the counting itself. It
/// writes nothing else while it is measured.
fn bytes_written() -> u64 {
    field("/proc/self/io", "wchar:")
}

/// The most memory this process has held, in bytes.
fn peak() -> u64 {
    field("/proc/self/status", "VmHWM:") * 1024
}

fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").expect("the peak can be reset");
}

fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).expect("the kernel tells");
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .expect("the kernel tells")
}
