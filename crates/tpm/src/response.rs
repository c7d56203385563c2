//! What a TPM answers when it refuses (part 2, §6.6), for people.

use std::fmt;

/// A response code that is not success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseCode(pub u32);

/// Of what a TPM complains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum About {
    Handle(u32),
    Session(u32),
    Parameter(u32),
    Nothing,
}

impl ResponseCode {
    /// The TPM is busy with itself: the same command is to be sent again.
    #[must_use]
    pub fn is_passing(self) -> bool {
        [RC_YIELDED, RC_TESTING, RC_RETRY].contains(&self.0)
    }

    /// All places for transient objects or sessions are taken.
    #[must_use]
    pub fn is_full(self) -> bool {
        [RC_OBJECT_MEMORY, RC_SESSION_MEMORY, RC_OBJECT_HANDLES, RC_SESSION_HANDLES]
            .contains(&self.0)
    }

    /// There is nothing under that handle or index.
    #[must_use]
    pub fn is_absent(self) -> bool {
        // TPM_RC_HANDLE for a handle, and what TPMs say of persistent handles (TPM_RC_VALUE).
        matches!(self.split(), (0x08b | 0x084, About::Handle(_)))
    }

    /// The TPM does not have the algorithm, curve or size.
    #[must_use]
    pub fn is_unsupported(self) -> bool {
        let numbers = [0x081, 0x083, 0x084, 0x087, 0x089, 0x08a, 0x092, 0x0a6];
        matches!(self.split(), (number, About::Parameter(_)) if numbers.contains(&number))
    }

    /// A wrapped key or a credential is not for this TPM: its integrity does not hold.
    #[must_use]
    pub fn is_foreign(self) -> bool {
        matches!(self.split().0, 0x09f)
    }

    /// A password is wrong or missing.
    #[must_use]
    pub fn is_about_a_password(self) -> bool {
        matches!(self.split().0, 0x08e | 0x0a2)
    }

    /// The number without the place, and the place. Warnings keep their 0x900, others their 0x100.
    const fn split(self) -> (u32, About) {
        let code = self.0;
        if code & 0x080 == 0 {
            return (code, About::Nothing);
        }
        let place = (code >> 8) & 0xf;
        let about = match (code & 0x040 != 0, place) {
            (_, 0) => About::Nothing,
            (true, place) => About::Parameter(place),
            (false, place) if place & 8 != 0 => About::Session(place & 7),
            (false, place) => About::Handle(place),
        };
        (code & 0x0bf, about)
    }
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, about) = self.split();
        match NAMES.iter().find(|(known, ..)| *known == number) {
            Some((_, name, text)) => write!(f, "{text} (TPM_RC_{name}")?,
            None => write!(f, "the TPM refuses (0x{:03x}", self.0)?,
        }
        match about {
            About::Handle(place) => write!(f, ", handle {place})"),
            About::Session(place) => write!(f, ", session {place})"),
            About::Parameter(place) => write!(f, ", parameter {place})"),
            About::Nothing => write!(f, ")"),
        }
    }
}

const RC_OBJECT_MEMORY: u32 = 0x902;
const RC_SESSION_MEMORY: u32 = 0x903;
const RC_SESSION_HANDLES: u32 = 0x905;
const RC_OBJECT_HANDLES: u32 = 0x906;
const RC_YIELDED: u32 = 0x908;
const RC_TESTING: u32 = 0x90a;
const RC_RETRY: u32 = 0x922;

/// Number, name after `TPM_RC_`, meaning.
const NAMES: &[(u32, &str, &str)] = &[
    (0x01e, "BAD_TAG", "what answers is a TPM 1.2"),
    (0x100, "INITIALIZE", "the TPM was not started up by the firmware"),
    (0x101, "FAILURE", "the TPM is in failure mode until it is reset"),
    (0x120, "DISABLED", "the hierarchy is disabled"),
    (0x124, "AUTH_TYPE", "this kind of authorisation is not allowed here"),
    (0x125, "AUTH_MISSING", "an authorisation is missing"),
    (0x126, "POLICY", "the policy failed"),
    (0x12f, "AUTH_UNAVAILABLE", "the object cannot be authorised so"),
    (0x130, "REBOOT", "the TPM wants the machine restarted"),
    (0x143, "COMMAND_CODE", "the TPM does not have this command"),
    (0x148, "NV_LOCKED", "the NV index is locked"),
    (0x149, "NV_AUTHORIZATION", "the NV index may not be read so"),
    (0x14a, "NV_UNINITIALIZED", "the NV index was never written"),
    (0x14b, "NV_SPACE", "the TPM's storage is full"),
    (0x14c, "NV_DEFINED", "the NV index or persistent object exists"),
    (0x081, "ASYMMETRIC", "the TPM does not have this kind of key"),
    (0x082, "ATTRIBUTES", "the object's attributes do not fit"),
    (0x083, "HASH", "the TPM does not have this hash"),
    (0x084, "VALUE", "a value is out of range"),
    (0x085, "HIERARCHY", "the hierarchy is disabled or wrong"),
    (0x087, "KEY_SIZE", "the TPM does not have this key size"),
    (0x089, "MODE", "the TPM does not have this mode"),
    (0x08a, "TYPE", "the object is of the wrong type"),
    (0x08b, "HANDLE", "there is no such object"),
    (0x08c, "KDF", "the TPM does not have this key derivation"),
    (0x08d, "RANGE", "a value is out of range"),
    (0x08e, "AUTH_FAIL", "wrong password (the TPM counts the failures)"),
    (0x08f, "NONCE", "the session is out of step"),
    (0x090, "PP", "physical presence is required"),
    (0x092, "SCHEME", "the TPM does not have this scheme"),
    (0x095, "SIZE", "a size is wrong"),
    (0x096, "SYMMETRIC", "the TPM does not have this cipher"),
    (0x097, "TAG", "a structure has the wrong tag"),
    (0x098, "SELECTOR", "a union has the wrong selector"),
    (0x09a, "INSUFFICIENT", "a structure is too short"),
    (0x09b, "SIGNATURE", "the signature is not valid"),
    (0x09c, "KEY", "the key does not fit"),
    (0x09d, "POLICY_FAIL", "the policy does not hold"),
    (0x09f, "INTEGRITY", "not made for this TPM: its integrity does not hold"),
    (0x0a0, "TICKET", "the ticket is not valid"),
    (0x0a1, "RESERVED_BITS", "reserved bits are set"),
    (0x0a2, "BAD_AUTH", "wrong password"),
    (0x0a3, "EXPIRED", "the policy has expired"),
    (0x0a6, "CURVE", "the TPM does not have this curve"),
    (0x0a7, "ECC_POINT", "the point is not on the curve"),
    (0x901, "CONTEXT_GAP", "the TPM's session contexts are too far apart"),
    (
        RC_OBJECT_MEMORY,
        "OBJECT_MEMORY",
        "all places for keys are taken: does somebody use the TPM without a resource manager?",
    ),
    (RC_SESSION_MEMORY, "SESSION_MEMORY", "all places for sessions are taken"),
    (0x904, "MEMORY", "the TPM is out of memory"),
    (RC_SESSION_HANDLES, "SESSION_HANDLES", "all places for sessions are taken"),
    (RC_OBJECT_HANDLES, "OBJECT_HANDLES", "all places for keys are taken"),
    (0x907, "LOCALITY", "wrong locality"),
    (RC_YIELDED, "YIELDED", "the TPM is busy"),
    (0x909, "CANCELED", "the command was cancelled"),
    (RC_TESTING, "TESTING", "the TPM is testing itself"),
    (0x920, "NV_RATE", "the TPM protects its storage from wear: try again later"),
    (0x921, "LOCKOUT", "the TPM is locked after too many wrong passwords"),
    (RC_RETRY, "RETRY", "the TPM is busy"),
    (0x923, "NV_UNAVAILABLE", "the TPM's storage cannot be written now"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_is_wrong_and_where() {
        for (code, text) in [
            (
                0x1df,
                "not made for this TPM: its integrity does not hold (TPM_RC_INTEGRITY, parameter 1)",
            ),
            (0x98e, "wrong password (the TPM counts the failures) (TPM_RC_AUTH_FAIL, session 1)"),
            (0x18b, "there is no such object (TPM_RC_HANDLE, handle 1)"),
            (0x921, "the TPM is locked after too many wrong passwords (TPM_RC_LOCKOUT)"),
            (0x100, "the TPM was not started up by the firmware (TPM_RC_INITIALIZE)"),
            (0x7ff, "the TPM refuses (0x7ff, parameter 7)"),
        ] {
            assert_eq!(ResponseCode(code).to_string(), text);
        }
    }

    #[test]
    fn codes_are_told_apart_by_what_to_do_about_them() {
        assert!(ResponseCode(0x922).is_passing() && !ResponseCode(0x921).is_passing());
        assert!(ResponseCode(0x902).is_full());
        assert!(ResponseCode(0x18b).is_absent() && ResponseCode(0x184).is_absent());
        assert!(ResponseCode(0x2e6).is_unsupported() && ResponseCode(0x2c4).is_unsupported());
        assert!(ResponseCode(0x1df).is_foreign() && ResponseCode(0x98e).is_about_a_password());
    }
}
