//! The public key in a certificate, for tokens that keep no public key object.

/// The DER SubjectPublicKeyInfo in a DER X.509 certificate, undecoded.
///
/// ```text
/// Certificate    ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signature }
/// tbsCertificate ::= SEQUENCE { [0] version OPTIONAL, serialNumber, signature, issuer, validity,
///                               subject, subjectPublicKeyInfo, … }
/// ```
///
/// `None` if it is not laid out like that; no input panics. Nothing is verified: the certificate only
/// says which key a token has, and a wrong one leads to a key that does not match.
/// Source: RFC 5280 section 4.1.
pub fn subject_public_key_info(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut rest, _) = element(certificate.content, SEQUENCE).map(|(e, r)| (e.content, r))?;
    if let Some((_version, after)) = element(rest, EXPLICIT_0) {
        rest = after;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE] {
        (_, rest) = element(rest, tag)?;
    }
    let (key, _) = element(rest, SEQUENCE)?;
    Some(key.whole)
}

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;

struct Element<'a> {
    /// Tag, length and content.
    whole: &'a [u8],
    content: &'a [u8],
}

/// Splits one element with this tag off `input`.
fn element(input: &[u8], tag: u8) -> Option<(Element<'_>, &[u8])> {
    let (&first, after_tag) = input.split_first()?;
    if first != tag {
        return None;
    }
    let (&short, after_length) = after_tag.split_first()?;
    let (length, body) = match short {
        0..=0x7f => (usize::from(short), after_length),
        // Long form; more than four octets of length is no certificate.
        0x81..=0x84 => {
            let (octets, body) = after_length.split_at_checked(usize::from(short & 0x7f))?;
            (
                octets
                    .iter()
                    .fold(0, |length, &octet| length << 8 | usize::from(octet)),
                body,
            )
        }
        _ => return None,
    };
    let (content, rest) = body.split_at_checked(length)?;
    let (whole, _) = input.split_at_checked(input.len() - rest.len())?;
    Some((Element { whole, content }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=test -outform DER`.
    const CERTIFICATE: &[u8] = include_bytes!("../tests/data/certificate.der");
    /// `openssl x509 -pubkey` of it, as DER.
    const PUBLIC_KEY: &[u8] = include_bytes!("../tests/data/public_key.der");

    #[test]
    fn the_key_of_a_real_certificate_is_found() {
        assert_eq!(subject_public_key_info(CERTIFICATE), Some(PUBLIC_KEY));
    }

    #[test]
    fn a_certificate_cut_short_has_none() {
        for length in 0..CERTIFICATE.len() {
            assert_eq!(
                subject_public_key_info(&CERTIFICATE[..length]),
                None,
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(
            mut bytes in Just(CERTIFICATE.to_vec()),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            noise in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            for (index, byte) in changes {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            let _ = subject_public_key_info(&bytes);
            let _ = subject_public_key_info(&noise);
        }
    }
}
