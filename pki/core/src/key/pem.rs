//! Public keys as PEM (RFC 7468 section 13).

use data_encoding::BASE64;

use crate::key::{BadKey, PublicKey};

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";
const LINE: usize = 64;

impl PublicKey {
    /// Parses the first PEM block labelled `PUBLIC KEY`; other text may stand around it.
    ///
    /// # Errors
    /// [`BadKey`], also for what is labelled otherwise: a certificate, a private key.
    pub fn from_pem(text: &str) -> Result<Self, BadKey> {
        let (_, rest) = text.split_once(BEGIN).ok_or(BadKey::Malformed)?;
        let (body, _) = rest.split_once(END).ok_or(BadKey::Malformed)?;
        let body: String = body.split_whitespace().collect();
        let der = BASE64
            .decode(body.as_bytes())
            .map_err(|_| BadKey::Malformed)?;
        Self::from_spki(&der)
    }

    /// Its PEM, with a line break at the end.
    pub fn to_pem(&self) -> String {
        let body = BASE64.encode(self.spki());
        let mut text = format!("{BEGIN}\n");
        let mut rest = body.as_str();
        while let Some((line, after)) = rest.split_at_checked(LINE) {
            text.extend([line, "\n"]);
            rest = after;
        }
        if !rest.is_empty() {
            text.extend([rest, "\n"]);
        }
        text.extend([END, "\n"]);
        text
    }
}
