use std::time::{Duration, Instant};

use super::*;
use crate::emulator::Emulator;
use crate::spec::{ALG_ECDSA, ALG_SHA256, RH_OWNER};
use crate::template::{self, KeyShape};
use crate::{EkKind, Parent, PcrSelection};

fn talk(emulator: &Emulator) -> Tpm {
    Tpm::open(&emulator.path(), Instant::now() + Duration::from_secs(60)).unwrap()
}

fn left(tpm: &mut Tpm) -> Vec<Handle> {
    [TRANSIENT_FIRST, LOADED_SESSION_FIRST]
        .iter()
        .flat_map(|first| tpm.handles(*first).unwrap())
        .collect()
}

#[test]
fn keys_are_made_wrapped_loaded_and_used() {
    let Some(mut emulator) = Emulator::start() else { return };
    let mut tpm = talk(&emulator);
    let parent = tpm.best_srk().unwrap();
    assert_eq!(parent, Parent::Srk(KeyShape::P256));
    for shape in [KeyShape::P256, KeyShape::P384, KeyShape::Rsa2048] {
        let srk = tpm.parent(parent, Auth::NONE).unwrap();
        let wrapped = tpm.create(srk.handle, Auth::NONE, &template::signer(shape)).unwrap();
        tpm.flush(srk.handle).unwrap();
        let key = tpm.load_under(parent, Auth::NONE, &wrapped).unwrap();
        assert_eq!(tpm.read_public(key.handle).unwrap().name, key.name);
        tpm.flush(key.handle).unwrap();
    }
    // A key survives a restart, and the parent is the same again.
    let srk = tpm.parent(parent, Auth::NONE).unwrap();
    let key = tpm.create(srk.handle, Auth::NONE, &template::signer(KeyShape::P256)).unwrap();
    drop(tpm);
    emulator.restart();
    let mut tpm = talk(&emulator);
    assert_eq!(tpm.parent(parent, Auth::NONE).unwrap().name, srk.name);
    let loaded = tpm.load_under(parent, Auth::NONE, &key).unwrap();
    tpm.sign(loaded.handle, Auth::NONE, (ALG_ECDSA, ALG_SHA256), &[7; 32]).unwrap();
    drop(tpm);
    // Another TPM says that it is not its own.
    emulator.swap();
    let error = talk(&emulator).load_under(parent, Auth::NONE, &key).unwrap_err();
    assert!(error.refusal().unwrap().is_foreign(), "{error}");
}

#[test]
fn nothing_stays_in_the_tpm_after_a_conversation_that_failed() {
    let Some(emulator) = Emulator::start() else { return };
    for _ in 0..4 {
        let mut tpm = talk(&emulator);
        tpm.create_primary(RH_OWNER, Auth::NONE, &template::srk(KeyShape::P256)).unwrap();
        let session = tpm.endorsement_policy(Auth::NONE).unwrap();
        assert_eq!(left(&mut tpm).len(), 2);
        let error = tpm.create(session, Auth::NONE, &[1, 2, 3]).err().unwrap();
        assert!(error.refusal().is_some(), "{error}");
    }
    assert_eq!(left(&mut talk(&emulator)), []);
}

#[test]
fn what_a_dead_process_left_makes_room_where_no_resource_manager_does() {
    let Some(emulator) = Emulator::start() else { return };
    for _ in 0..3 {
        let mut tpm = talk(&emulator);
        tpm.create_primary(RH_OWNER, Auth::NONE, &template::srk(KeyShape::P256)).unwrap();
        // As kill -9 does.
        tpm.loaded.clear();
    }
    let mut tpm = talk(&emulator);
    assert_eq!(left(&mut tpm).len(), 3);
    tpm.create_primary(RH_OWNER, Auth::NONE, &template::srk(KeyShape::P256)).unwrap();
    assert_eq!(left(&mut tpm).len(), 1);
}

#[test]
fn endorsement_keys_are_derived_or_those_that_are_kept() {
    let Some(emulator) = Emulator::start() else { return };
    let mut tpm = talk(&emulator);
    for kind in EkKind::ALL {
        assert_eq!(tpm.ek_certificate(kind, Auth::NONE).unwrap(), None);
        let ek = tpm.ek(kind, Auth::NONE, Auth::NONE).unwrap();
        let persistent = Handle(if kind == EkKind::P256 { 0x8101_0002 } else { 0x8101_0001 });
        tpm.evict_control(Auth::NONE, ek.handle, persistent).unwrap();
        tpm.flush(ek.handle).unwrap();
        let again = tpm.ek(kind, Auth::NONE, Auth::NONE).unwrap();
        assert_eq!((again.handle, again.name), (persistent, ek.name));
        // Some other key at that place is not taken for it.
        tpm.evict_control(Auth::NONE, persistent, persistent).unwrap();
        let other =
            tpm.create_primary(RH_OWNER, Auth::NONE, &template::srk(KeyShape::P256)).unwrap();
        tpm.evict_control(Auth::NONE, other.handle, persistent).unwrap();
        let derived = tpm.ek(kind, Auth::NONE, Auth::NONE).unwrap();
        assert_ne!(derived.handle, persistent);
        tpm.flush(derived.handle).unwrap();
        tpm.flush(other.handle).unwrap();
    }
}

#[test]
fn pcrs_are_read_and_quoted() {
    let Some(emulator) = Emulator::start() else { return };
    let mut tpm = talk(&emulator);
    assert!(tpm.pcr_banks().unwrap().contains(&ALG_SHA256));
    let wanted = PcrSelection { hash: ALG_SHA256, pcrs: vec![0, 7, 17, 23] };
    let values = tpm.read_pcrs(&wanted).unwrap();
    assert_eq!(values[&7], [0; 32]);
    assert_eq!(values[&17], [0xff; 32]);
    let parent = tpm.best_srk().unwrap();
    let srk = tpm.parent(parent, Auth::NONE).unwrap();
    let ak = tpm.create(srk.handle, Auth::NONE, &template::ak(KeyShape::P256)).unwrap();
    tpm.leave(parent, srk.handle).unwrap();
    let ak = tpm.load_under(parent, Auth::NONE, &ak).unwrap();
    let quote = tpm.quote((ak.handle, Auth::NONE), b"nonce", &[wanted]).unwrap();
    assert_eq!(quote.attest[..6], [0xff, 0x54, 0x43, 0x47, 0x80, 0x18]);
    let properties = tpm.properties(0x105).unwrap();
    assert_eq!(properties[&0x105], u32::from_be_bytes(*b"IBM\0"));
}

#[test]
fn nv_indexes_that_are_not_there_are_none() {
    let Some(emulator) = Emulator::start() else { return };
    assert_eq!(talk(&emulator).nv_read(0x01c0_0002, Auth::NONE).unwrap(), None);
}

#[tokio::test]
async fn conversations_take_turns_and_one_that_hangs_is_left() {
    let Some(emulator) = Emulator::start() else { return };
    let access = crate::Access::to(&emulator.path());
    assert!(std::sync::Arc::ptr_eq(&access, &crate::Access::to(&emulator.path())));
    let patience = Duration::from_secs(60);
    let turn = || {
        access.run(patience, |tpm| -> Result<_, TpmError> {
            tpm.create_primary(RH_OWNER, Auth::NONE, &template::srk(KeyShape::P256))?;
            tpm.create_primary(RH_OWNER, Auth::NONE, &template::srk(KeyShape::P256))?;
            Ok(left(tpm).len())
        })
    };
    let (a, b, c) = tokio::join!(turn(), turn(), turn());
    assert_eq!((a.unwrap(), b.unwrap(), c.unwrap()), (2, 2, 2));
    let folder = tempfile::tempdir().unwrap();
    let silent = folder.path().join("silent");
    let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    let access = crate::Access::to(&silent);
    let error = access.run(Duration::from_millis(300), Tpm::curves).await.unwrap_err();
    assert!(matches!(error, TpmError::Device(DeviceError::Late(_))), "{error}");
}
