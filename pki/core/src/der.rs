//! The little DER that an RSA SubjectPublicKeyInfo needs.
//!
//! Reading is only ever a step before writing the same thing anew and comparing, so it need not
//! refuse what is not canonical by itself.

/// `INTEGER`.
pub(crate) const INTEGER: u8 = 0x02;
/// `BIT STRING`.
pub(crate) const BIT_STRING: u8 = 0x03;
/// `OBJECT IDENTIFIER`.
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
/// `SEQUENCE`, constructed.
pub(crate) const SEQUENCE: u8 = 0x30;

/// Takes one element of type `tag` off `input`: its content, and what follows it.
///
/// ```text
/// tag 1 B | length: 1 B below 80, or 81 and 1 B, or 82 and 2 B big-endian | content
/// ```
pub(crate) fn take(tag: u8, input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = input.split_first()?;
    if first != tag {
        return None;
    }
    let (length, rest) = match rest.split_first()? {
        (&short @ 0..=0x7f, rest) => (usize::from(short), rest),
        (0x81, rest) => {
            let (&length, rest) = rest.split_first()?;
            (usize::from(length), rest)
        }
        (0x82, rest) => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// Writes one element; `content` is shorter than 65,536 bytes.
pub(crate) fn write(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("keys are far shorter than 64 KiB");
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        _ => {
            out.push(0x82);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend(content);
    out
}

/// Writes a positive `INTEGER` of big-endian bytes.
pub(crate) fn write_positive(magnitude: &[u8]) -> Vec<u8> {
    let magnitude = strip_zeros(magnitude);
    let mut content = Vec::with_capacity(magnitude.len() + 1);
    if magnitude.first().is_none_or(|&byte| byte >= 0x80) {
        content.push(0);
    }
    content.extend(magnitude);
    write(INTEGER, &content)
}

/// Big-endian bytes without leading zeros.
pub(crate) fn strip_zeros(mut magnitude: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = magnitude {
        magnitude = rest;
    }
    magnitude
}

/// An object identifier as people write it: `1.2.840.113549.1.1.1`.
pub(crate) fn dotted(oid: &[u8]) -> String {
    let mut arcs: Vec<u64> = Vec::new();
    let mut arc = 0_u64;
    for &byte in oid {
        arc = arc.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte < 0x80 {
            if arcs.is_empty() {
                let root = (arc / 40).min(2);
                arcs.push(root);
                arc -= root * 40;
            }
            arcs.push(arc);
            arc = 0;
        }
    }
    let arcs: Vec<String> = arcs.iter().map(u64::to_string).collect();
    arcs.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_of_each_length_form_is_read_back() {
        for length in [0, 1, 127, 128, 255, 256, 65_535] {
            let content = vec![7; length];
            let mut written = write(SEQUENCE, &content);
            written.extend([1, 2]);
            assert_eq!(take(SEQUENCE, &written), Some((&content[..], &[1, 2][..])));
        }
    }

    #[test]
    fn an_object_identifier_is_shown_with_dots() {
        let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        assert_eq!(dotted(&rsa), "1.2.840.113549.1.1.1");
        assert_eq!(dotted(&[0x2b, 0x65, 0x70]), "1.3.101.112");
        assert_eq!(dotted(&[0x88, 0x37, 0x03]), "2.999.3");
    }
}
