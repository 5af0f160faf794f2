use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;

/// Every example of RFC 7512 section 3 that has no `pin-value`.
const RFC_EXAMPLES: &[&str] = &[
    "pkcs11:",
    "pkcs11:object=my-pubkey;type=public",
    "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
    "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;\
     model=1.0;object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=\
     ?pin-source=file:/etc/token_pin",
    "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
    "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
    "pkcs11:slot-description=Sun%20Metaslot",
    "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;\
     library-version=1.23",
    "pkcs11:library-version=3",
    "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;\
     object=A%20name%20with%20a%20substring%20%25%3B;type=cert",
    "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;\
     object=A%20name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;type=cert",
    "pkcs11:token=my-token;type=cert;vendor-aaa=value-a",
    "pkcs11:token=my-token;type=cert?vendor-aaa=value-a&vendor-aaa=value-b",
];

fn parse(text: &str) -> Uri {
    Uri::parse(text).expect(text)
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn facts() -> TokenFacts {
    TokenFacts {
        label: "Card".into(),
        manufacturer: "Maker".into(),
        serial: "00a1".into(),
        model: "M1".into(),
        slot_manufacturer: "Reader Inc.".into(),
        slot_description: "Reader 00 00".into(),
        slot_id: 7,
        library_manufacturer: "Lib Inc.".into(),
        library_description: "Library".into(),
        library_version: LibraryVersion { major: 2, minor: 6 },
    }
}

#[test]
fn every_example_of_the_rfc_survives_a_round_trip() {
    for example in RFC_EXAMPLES {
        let uri = parse(example);
        assert_eq!(parse(&uri.to_string()), uri, "{example}");
    }
}

#[test]
fn the_long_example_of_the_rfc_means_what_it_says() {
    let uri = parse(RFC_EXAMPLES[3]);
    assert_eq!(
        uri,
        Uri {
            token: some("The Software PKCS#11 Softtoken"),
            manufacturer: some("Snake Oil, Inc."),
            model: some("1.0"),
            object: some("my-certificate"),
            object_type: Some(ObjectType::Certificate),
            id: Some(vec![0x69, 0x95, 0x3e, 0x5c, 0xf4, 0xbd, 0xec, 0x91]),
            serial: some(""),
            pin_source: some("file:/etc/token_pin"),
            ..Uri::default()
        }
    );
    assert_eq!(
        parse("pkcs11:library-version=3")
            .library_version
            .map(|v| v.minor),
        Some(0)
    );
    assert_eq!(
        parse(RFC_EXAMPLES[10]).token,
        some("Name with a small A with acute: á")
    );
}

#[test]
fn a_written_uri_has_one_spelling() {
    let uri =
        parse("PKCS11:type=private;id=a%03;serial=00a1;token=My%20card%3b?pin-source=file:/p");
    assert_eq!(
        uri.to_string(),
        "pkcs11:serial=00a1;token=My%20card%3B;id=%61%03;type=private?pin-source=file:/p"
    );
}

#[test]
fn a_pin_in_the_uri_is_refused_and_not_repeated() {
    for text in [
        "pkcs11:token=T?pin-value=1234",
        "pkcs11:token=T;pin-value=1234",
    ] {
        let error = Uri::parse(text).unwrap_err();
        assert_eq!(error, UriError::PinValue);
        assert!(!error.to_string().contains("1234"));
    }
}

#[test]
fn what_is_not_a_pkcs11_uri_is_refused() {
    use UriError as E;
    let cases: &[(&str, UriError)] = &[
        ("", E::Scheme),
        ("pkcs11", E::Scheme),
        ("file:/x", E::Scheme),
        ("pkcs11:token", E::Malformed(1)),
        ("pkcs11:;", E::Malformed(1)),
        ("pkcs11:token=a;", E::Malformed(2)),
        ("pkcs11:=a", E::Malformed(1)),
        ("pkcs11:to ken=a", E::Malformed(1)),
        ("pkcs11:token=a b", E::Malformed(1)),
        ("pkcs11:serial=1;token=a/b", E::Malformed(2)),
        ("pkcs11:token=a#b", E::Malformed(1)),
        ("pkcs11:token=%2", E::Malformed(1)),
        ("pkcs11:token=%zz", E::Malformed(1)),
        ("pkcs11:token=%+1", E::Malformed(1)),
        ("pkcs11:token=a?pin-source", E::Malformed(2)),
        ("pkcs11:token=a;token=a", E::Duplicate("token".into())),
        ("pkcs11:x-v=a;x-v=b", E::Duplicate("x-v".into())),
        (
            "pkcs11:?pin-source=a&pin-source=b",
            E::Duplicate("pin-source".into()),
        ),
        ("pkcs11:token=%ff", E::Value("token".into())),
        ("pkcs11:type=key", E::Value("type".into())),
        ("pkcs11:slot-id=-1", E::Value("slot-id".into())),
        ("pkcs11:slot-id=+1", E::Value("slot-id".into())),
        (
            "pkcs11:slot-id=99999999999999999999",
            E::Value("slot-id".into()),
        ),
        (
            "pkcs11:library-version=1.2.3",
            E::Value("library-version".into()),
        ),
        (
            "pkcs11:library-version=",
            E::Value("library-version".into()),
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Uri::parse(text).unwrap_err(), *expected, "{text}");
    }
}

#[test]
fn every_attribute_must_agree_for_a_token_to_match() {
    let facts = facts();
    assert!(parse("pkcs11:").names_token(&facts));
    assert!(parse("pkcs11:serial=00a1;id=%09").names_token(&facts));
    let all = "pkcs11:library-manufacturer=Lib%20Inc.;library-description=Library;\
               library-version=2.6;slot-manufacturer=Reader%20Inc.;\
               slot-description=Reader%2000%2000;slot-id=7;model=M1;manufacturer=Maker;\
               serial=00a1;token=Card";
    assert!(parse(all).names_token(&facts));
    for attribute in [
        "library-manufacturer=x",
        "library-description=x",
        "library-version=2.7",
        "slot-manufacturer=x",
        "slot-description=x",
        "slot-id=8",
        "model=x",
        "manufacturer=x",
        "serial=00A1",
        "serial=",
        "token=card",
        "x-unknown=1",
    ] {
        assert!(
            !parse(&format!("pkcs11:{attribute}")).names_token(&facts),
            "{attribute}"
        );
    }
}

#[test]
fn a_key_is_named_by_id_and_label_whatever_object_of_the_pair_the_type_says() {
    for kind in ["private", "public", "cert"] {
        assert!(parse(&format!("pkcs11:id=%01;object=k;type={kind}")).names_key(&[1], "k"));
    }
    assert!(parse("pkcs11:serial=1").names_key(&[1], "k"));
    assert!(!parse("pkcs11:id=%02").names_key(&[1], "k"));
    assert!(!parse("pkcs11:object=j").names_key(&[1], "k"));
    assert!(!parse("pkcs11:id=%01;type=secret-key").names_key(&[1], "k"));
    assert!(!parse("pkcs11:id=%01;x-vendor=1").names_key(&[1], "k"));
}

fn any_text() -> impl Strategy<Value = Option<String>> {
    of(any::<String>())
}

prop_compose! {
    fn any_uri()(
        names in [any_text(), any_text(), any_text(), any_text(), any_text(), any_text(), any_text(),
                  any_text(), any_text(), any_text(), any_text(), any_text()],
        version in of(any::<(u8, u8)>()),
        slot_id in of(any::<u64>()),
        id in of(vec(any::<u8>(), 0..40)),
        object_type in of(prop_oneof![Just(ObjectType::Public), Just(ObjectType::Private),
            Just(ObjectType::Certificate), Just(ObjectType::SecretKey), Just(ObjectType::Data)]),
        vendor in of(("x-[a-z0-9_-]{1,8}", vec(any::<u8>(), 0..20))),
        vendor_query in vec(("x-[a-z0-9_-]{1,8}", vec(any::<u8>(), 0..20)), 0..3),
    ) -> Uri {
        let [token, manufacturer, serial, model, library_manufacturer, library_description,
             slot_manufacturer, slot_description, object, pin_source, module_name, module_path] = names;
        Uri {
            token, manufacturer, serial, model, library_manufacturer, library_description,
            slot_manufacturer, slot_description, object, pin_source, module_name, module_path,
            library_version: version.map(|(major, minor)| LibraryVersion { major, minor }),
            slot_id, id, object_type,
            vendor_path: vendor.into_iter().collect(),
            vendor_query,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_parses_to_the_same(uri in any_uri()) {
        let text = uri.to_string();
        prop_assert!(text.is_ascii());
        prop_assert_eq!(Uri::parse(&text), Ok(uri));
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Uri::parse(&text);
    }

    #[test]
    fn no_mutilated_uri_panics(uri in any_uri(), cut in any::<usize>(), insert in any::<char>()) {
        let mut text = uri.to_string();
        let cut = cut % (text.len() + 1);
        let _ = Uri::parse(&text[..cut]);
        text.insert(cut, insert);
        let _ = Uri::parse(&text);
    }
}
