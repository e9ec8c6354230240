//! The little HTTP of `steer demo`: the answers that its client reads, and the queries that its worker
//! takes. Requests are hyper's to parse.

use std::time::Duration;

use steer_user::demo::{
    client::{Outcome, read_answer},
    worker::block_time,
};

pub(crate) fn check(input: &[u8]) {
    if let Outcome::Served(pid) = read_answer(input) {
        assert!(input.trim_ascii_start().starts_with(b"HTTP/1."));
        let text = String::from_utf8_lossy(input);
        let digits = text.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next();
        assert_eq!(digits.and_then(|digits| digits.parse().ok()), Some(pid));
    }
    // Whatever follows, the head is the same.
    let whole = [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", input].concat();
    let body = String::from_utf8_lossy(input);
    let expected = body.trim().parse().ok();
    match read_answer(&whole) {
        Outcome::Served(pid) => assert_eq!(Some(pid), expected),
        Outcome::Broken(_) => assert_eq!(expected, None),
        other @ (Outcome::Reset | Outcome::Refused | Outcome::Hung) => {
            panic!("{other} by its text alone")
        }
    }
    let query = str::from_utf8(input).ok();
    if let Some(time) = block_time(query) {
        assert!(time <= Duration::from_secs(60));
        let again = format!("ms={}", time.as_millis());
        assert_eq!(block_time(Some(&again)), Some(time));
    }
}
