//! The figures of one side and one work.

use serde_json::Value;

use crate::Result;

/// What was measured, over all turns.
#[derive(Default)]
pub(crate) struct Figures {
    nanoseconds: Vec<f64>,
    /// The most memory, in bytes.
    pub(crate) peak: f64,
    /// Bytes written a thing.
    pub(crate) written: f64,
    /// What the store took on the medium, in bytes, where that is looked at.
    pub(crate) disk: Option<f64>,
}

impl Figures {
    /// Takes the report of one turn.
    pub(crate) fn add(&mut self, report: &Value) -> Result<()> {
        let number = |name: &str| {
            report[name].as_f64().ok_or_else(|| format!("a report without `{name}`: {report}"))
        };
        let samples = report["nanoseconds"].as_array().ok_or("a report without samples")?;
        self.nanoseconds.extend(samples.iter().filter_map(Value::as_f64));
        self.nanoseconds.sort_by(f64::total_cmp);
        self.peak = self.peak.max(number("peak")?);
        self.written = number("written")?;
        self.disk = report["disk"].as_f64();
        Ok(())
    }

    /// The median, in nanoseconds.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The quartiles, in nanoseconds.
    pub(crate) fn quartiles(&self) -> (f64, f64) {
        (self.quantile(0.25), self.quantile(0.75))
    }

    fn quantile(&self, share: f64) -> f64 {
        let last = self.nanoseconds.len().saturating_sub(1);
        let place = share * last as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        let at = |n: usize| self.nanoseconds.get(n).copied().unwrap_or(f64::NAN);
        at(below) + (at(above) - at(below)) * (place - place.floor())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_between_the_samples() {
        let mut figures = Figures::default();
        let report =
            |samples: &[f64]| serde_json::json!({"nanoseconds": samples, "peak": 1, "written": 2});
        figures.add(&report(&[4.0, 1.0])).unwrap();
        figures.add(&report(&[3.0, 2.0])).unwrap();
        assert_eq!(figures.median(), 2.5);
        assert_eq!(figures.quartiles(), (1.75, 3.25));
        assert!(figures.add(&serde_json::json!({})).is_err());
    }
}
