//! Notes about what is to be derived again.

use crate::store::{
    Arrival, DeriveAgain, EventNum,
    codec::{Decoder, Encoder, Malformed},
};

pub(in crate::store) fn encode_derive_again(again: DeriveAgain) -> Vec<u8> {
    let DeriveAgain { state, followed, merges_from, judge_after } = again;
    let mut out = Encoder::default();
    out.byte(u8::from(state) | u8::from(followed) << 1);
    out.number(merges_from.map_or(0, |it| u64::from(it.0) + 1));
    if let Some(Arrival { arrival, event }) = judge_after {
        out.signed(arrival);
        out.number(event.0.into());
    }
    out.finish()
}

pub(in crate::store) fn decode_derive_again(bytes: &[u8]) -> Result<DeriveAgain, Malformed> {
    let mut from = Decoder(bytes);
    let flags = from.byte()?;
    if flags > 3 {
        return Err(Malformed);
    }
    let merges_from = from.number()?.checked_sub(1).map(u32::try_from).transpose();
    let merges_from = merges_from.map_err(|_| Malformed)?.map(EventNum);
    let judge_after = if from.0.is_empty() {
        None
    } else {
        Some(Arrival { arrival: from.signed()?, event: EventNum(from.small()?) })
    };
    from.end()?;
    Ok(DeriveAgain { state: flags & 1 != 0, followed: flags & 2 != 0, merges_from, judge_after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_notes() {
        let judge_after = Some(Arrival { arrival: -3, event: EventNum(7) });
        let all = DeriveAgain {
            state: true,
            followed: true,
            merges_from: Some(EventNum(0)),
            judge_after,
        };
        assert_eq!(encode_derive_again(all), [3, 1, 5, 7]);
        assert_eq!(encode_derive_again(DeriveAgain::STATE), [1, 0]);
        for again in [all, DeriveAgain::STATE, DeriveAgain::FOLLOWED, DeriveAgain::default()] {
            assert_eq!(decode_derive_again(&encode_derive_again(again)), Ok(again));
        }
        assert_eq!(decode_derive_again(&[4, 0]), Err(Malformed));
        assert_eq!(decode_derive_again(&[1, 0, 0]), Err(Malformed));
    }
}
