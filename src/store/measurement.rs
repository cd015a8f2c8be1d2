//! Figures about the whole store, which one process measures for all that share it.

use super::{
    Store, StoreError, View as _,
    codec::{Decoder, Encoder, Malformed, add_checksum},
    keys,
};

/// The most figures of a measurement.
const MAX_FIGURES: usize = 64;

/// Figures that some process has measured. What they mean is known to the code that measures them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// A random number: another one for each measurement.
    pub id: u64,
    /// The figures.
    pub figures: Vec<u64>,
}

impl Store {
    /// The measurement that was stored last; `None` if there is none.
    ///
    /// # Errors
    /// When the record is damaged.
    pub fn measurement(&self) -> Result<Option<Measurement>, StoreError> {
        self.read("measurement", &keys::measurement(), decode)
    }

    /// Stores a measurement in place of the one before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_measurement(&self, measurement: &Measurement) -> Result<(), StoreError> {
        let key = keys::measurement();
        let mut out = Encoder::default();
        out.number(measurement.id);
        out.length(measurement.figures.len());
        measurement.figures.iter().for_each(|it| out.number(*it));
        let value = add_checksum(&key, out.finish());
        self.engine.put([(key, Some(value.into()))].into())
    }
}

fn decode(bytes: &[u8]) -> Result<Measurement, Malformed> {
    let mut from = Decoder(bytes);
    let id = from.number()?;
    let count = from.length()?;
    if count > MAX_FIGURES {
        return Err(Malformed);
    }
    let figures = (0..count).map(|_| from.number()).collect::<Result<_, _>>()?;
    from.end()?;
    Ok(Measurement { id, figures })
}
