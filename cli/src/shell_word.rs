//! Paths in commands that are to be pasted into a shell.

use std::path::Path;

use crate::print;

/// A path as a word of the shell; `None` unless it is text that a terminal shows as it is.
pub(crate) fn quoted(path: &Path) -> Option<String> {
    let text = path
        .to_str()
        .filter(|text| !text.chars().any(print::steers))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    match text.chars().all(plain) {
        true => Some(text.into()),
        false => Some(format!("'{}'", text.replace('\'', r"'\''"))),
    }
}

/// A path for people, and for the shell where it can be.
pub(crate) fn shown(path: &Path) -> String {
    quoted(path).unwrap_or_else(|| format!("{path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_the_shell_or_none() {
        let quoted = |text: &str| quoted(Path::new(text));
        assert_eq!(quoted("/mnt/home"), Some("/mnt/home".into()));
        assert_eq!(
            quoted("/mnt/it's $(x)"),
            Some(r"'/mnt/it'\''s $(x)'".into())
        );
        assert_eq!(quoted("/mnt/\u{1b}[2J"), None);
        assert_eq!(quoted("/mnt/\u{202e}gpj.exe"), None);
    }
}
