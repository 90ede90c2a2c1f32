//! The key agreement of backups: X25519 (RFC 7748, 5 and 6.1), once for each of a hundred thousand
//! entries.
//!
//! Restoring a backup is nine tenths this one function, so it takes the assembly of s2n-bignum
//! (proven correct against its specification) by way of [`graviola`] where the processor has the
//! instructions for it, and vodozemac's elsewhere. Both are functions of the same standard: which
//! one runs changes no byte, and the tests hold one against the other.

use vodozemac::{Curve25519PublicKey, Curve25519SecretKey};
use zeroize::{Zeroize, Zeroizing};

/// Thirty-two bytes that both sides know. Secret; wiped when dropped.
pub(crate) type Shared = Zeroizing<[u8; 32]>;

/// What `secret` and the owner of `public` agree on; `None` if `public` has a small order, and
/// everyone knew it.
pub(crate) fn agree(secret: &Curve25519SecretKey, public: &Curve25519PublicKey) -> Option<Shared> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if assembly::is_supported() {
        return assembly::agree(secret, public);
    }
    portable(secret, public)
}

fn portable(secret: &Curve25519SecretKey, public: &Curve25519PublicKey) -> Option<Shared> {
    secret.diffie_hellman(public).map(|shared| Zeroizing::new(*shared.as_bytes()))
}

/// The bytes of a private key, wiped when dropped.
pub(crate) fn private_bytes(secret: &Curve25519SecretKey) -> Zeroizing<[u8; 32]> {
    let mut boxed = secret.to_bytes();
    let bytes = Zeroizing::new(*boxed);
    boxed.zeroize();
    bytes
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod assembly {
    use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};

    use super::{Curve25519PublicKey, Curve25519SecretKey, Shared, Zeroizing, private_bytes};

    /// Whether the processor has what graviola asks for; it panics on one that has not.
    pub(super) fn is_supported() -> bool {
        // Of Intel's it asks for less than it uses.
        #[cfg(target_arch = "x86_64")]
        let has_bmi2 = std::arch::is_x86_feature_detected!("bmi2");
        #[cfg(target_arch = "aarch64")]
        let has_bmi2 = true;
        has_bmi2 && graviola::util::is_cpu_supported()
    }

    pub(super) fn agree(
        secret: &Curve25519SecretKey,
        public: &Curve25519PublicKey,
    ) -> Option<Shared> {
        // Both wipe themselves.
        let secret = StaticPrivateKey::from_array(&private_bytes(secret));
        let shared = secret.diffie_hellman(&PublicKey::from_array(public.as_bytes())).ok()?;
        Some(Zeroizing::new(shared.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::tests_support::low_order_curve25519;

    fn bytes(hex: &str) -> [u8; 32] {
        let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(byte)
    }

    fn both(secret: [u8; 32], public: [u8; 32]) -> Option<[u8; 32]> {
        let secret = Curve25519SecretKey::from_slice(&secret);
        let public = Curve25519PublicKey::from_bytes(public);
        let shared = agree(&secret, &public).map(|shared| *shared);
        assert_eq!(shared, portable(&secret, &public).map(|shared| *shared));
        shared
    }

    #[test]
    fn the_standards_vectors() {
        // Origin: RFC 7748, 5.2, both vectors (the second has the top bit of u set), and 6.1.
        for (scalar, u, out) in [
            (
                "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
                "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
                "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
            ),
            (
                "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
                "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
                "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
            ),
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
                "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
            ),
        ] {
            assert_eq!(both(bytes(scalar), bytes(u)), Some(bytes(out)));
        }
    }

    #[test]
    fn n21_a_point_of_small_order_gives_nothing() {
        for key in low_order_curve25519() {
            assert_eq!(both([7; 32], key.to_bytes()), None, "{key:?}");
            let mut signed = key.to_bytes();
            signed[31] |= 0x80;
            assert_eq!(both([7; 32], signed), None, "{key:?}");
        }
    }

    #[test]
    fn keys_beyond_the_field_agree_as_their_remainders() {
        // p + 9 is 9, the base point.
        let mut beyond = [0xff; 32];
        (beyond[0], beyond[31]) = (0xf6, 0x7f);
        let mut base = [0; 32];
        base[0] = 9;
        assert_eq!(both([7; 32], beyond), both([7; 32], base));
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_assembly_is_what_runs_where_it_can() {
        // Every processor since 2016 has these; without them the other tests compare one function with itself.
        assert_eq!(assembly::is_supported(), std::arch::is_x86_feature_detected!("adx"));
    }

    proptest! {
        #[test]
        fn both_functions_are_the_same(secret: [u8; 32], public: [u8; 32]) {
            both(secret, public);
        }
    }
}
