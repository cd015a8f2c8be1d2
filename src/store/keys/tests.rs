//! Keys sort as their parts do, and their bytes never change.

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn keys_sort_as_their_parts(a: (u32, i64, u32), b: (u32, i64, u32)) {
        let key = |it: (u32, i64, u32)| arrival(RoomNum(it.0), it.1, EventNum(it.2));
        prop_assert_eq!(a.cmp(&b), key(a).cmp(&key(b)));
        let key = |it: (u32, i64, u32)| waiting_of(RoomNum(it.0), EventNum(7), EventNum(it.2));
        prop_assert_eq!((a.0, a.2).cmp(&(b.0, b.2)), key(a).cmp(&key(b)));
        let key = |it: (u32, i64, u32)| page(RoomNum(it.0), it.2);
        prop_assert_eq!((a.0, a.2).cmp(&(b.0, b.2)), key(a).cmp(&key(b)));
    }
}

/// Every existing store depends on these bytes.
#[test]
fn golden_keys() {
    let (room, event) = (RoomNum(0x0102_0304), EventNum(0x0a0b_0c0d));
    let hex = |key: Vec<u8>| key.iter().map(|it| format!("{it:02x}")).collect::<String>();
    assert_eq!(hex(format()), "00");
    assert_eq!(hex(mark()), "006d61726b");
    assert_eq!(hex(room_by_name("!a")), "012161");
    assert_eq!(hex(super::room(room)), "0201020304");
    assert_eq!(hex(super::event(room, "$a")), "03010203047a0eec4b42ce5350c33d7c9f9859574b");
    assert_eq!(hex(page(room, 5)), "040102030400000005");
    assert_eq!(hex(body(room, event)), "05010203040a0b0c0d");
    assert_eq!(hex(block(room, 5)), "120102030400000005");
    assert_eq!(hex(waiting_of(room, event, EventNum(1))), "07010203040a0b0c0d00000001");
    assert_eq!(hex(arrival(room, -1, event)), "08010203047fffffffffffffff0a0b0c0d");
    assert_eq!(hex(arrival(room, 1, event)), "080102030480000000000000010a0b0c0d");
    assert_eq!(hex(extremity(room, 1, event)), "13010203047ffffffffffffffe0a0b0c0d");
    let expected = Arrival { arrival: -7, event };
    assert_eq!(extremity_of(&extremity(room, -7, event)), Some(expected));
    assert_eq!(hex(power(room, 1, event)), "15010203047ffffffffffffffe0a0b0c0d");
    assert_eq!(hex(later_redaction(room, 1, event)), "160102030480000000000000010a0b0c0d");
    let judged = redaction(room, "$a", 2, event);
    assert_eq!(hex(judged), "14010203047a0eec4b42ce5350c33d7c9f9859574b020a0b0c0d");
    assert_eq!(hex(state(room, StateNum(9))), "090102030400000009");
    assert_eq!(hex(erased_user("@a:b")), "0b40613a62");
    assert_eq!(hex(given_state(room, event)), "0c010203040a0b0c0d");
    assert_eq!(hex(unsettled(room, event)), "0d010203040a0b0c0d");
    assert_eq!(hex(server_keys("b")), "0e62");
    assert_eq!(hex(deriving(room)), "1701020304");
    assert_eq!(hex(derive_again(room, event)), "17010203040a0b0c0d");
    assert_eq!(hex(redacted_search()), "00636f6e74");
    assert_eq!(hex(content_due(room, event)), "1a010203040a0b0c0d00");
    assert_eq!(hex(remains(room, event)), "1a010203040a0b0c0d01");
    assert_eq!(of_content(&remains(room, event)), Some(event));
    assert_eq!(hex(ban_redaction("!a", "@b:c")), "1b0002216140623a63");
    assert_eq!(hex(ban_search("!a", "@b:c")), "1b0102216140623a63");
    assert_eq!(banned_user(&ban_search("!a", "@b:c")), Some(("!a", "@b:c")));
    assert_eq!(hex(cursor("b")), "1862");
    assert_eq!(hex(room_not_served("!a")), "192161");
}
