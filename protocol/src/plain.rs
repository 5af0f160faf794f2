//! Text in which nothing steers the terminal that it is shown on: names, labels and paths are chosen by others.

/// `text` with escapes for what [`steers`]. Lines stay lines.
pub fn plain(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(plain_line).collect();
    lines.join("\n")
}

/// The same for what is to stay on its line.
pub fn plain_line(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) {
            true => plain.extend(c.escape_default()),
            false => plain.push(c),
        }
    }
    plain
}

/// Whether `c` could steer a terminal, or turn its writing around: marks, embeddings, overrides and isolates
/// of right-to-left text.
pub fn steers(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    ) || c.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_of_others_steer_no_terminal() {
        let text = "wrong:\n \u{1b}]0;title\u{7}\r\u{9b}31m\u{202e}gpj.exe größe 鍵";
        assert_eq!(
            plain(text),
            "wrong:\n \\u{1b}]0;title\\u{7}\\r\\u{9b}31m\\u{202e}gpj.exe größe 鍵"
        );
        assert_eq!(plain_line("a\nall is well"), "a\\nall is well");
    }
}
