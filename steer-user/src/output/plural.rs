//! Numbers of things, in words for messages.

/// `1 worker`, `2 workers`.
pub fn counted(number: impl Into<u64>, thing: &str) -> String {
    let number = number.into();
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{s}")
}

/// `1 process`, `2 processes`.
pub fn processes(number: u32) -> String {
    let es = if number == 1 { "" } else { "es" };
    format!("{number} process{es}")
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_not_many() {
        assert_eq!(counted(1_u32, "listener"), "1 listener");
        assert_eq!(counted(0_u32, "listener"), "0 listeners");
    }
}
