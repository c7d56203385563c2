use std::time::UNIX_EPOCH;

use super::*;

const HOUR: Duration = Duration::from_secs(60 * 60);
const NOON: SystemTime = UNIX_EPOCH;

/// An authority that is nothing but its times.
#[derive(Clone, PartialEq, Debug)]
struct Fake(&'static str, SystemTime, SystemTime);

impl Authority for Fake {
    fn id(&self) -> &str {
        self.0
    }

    fn issued_at(&self) -> SystemTime {
        self.1
    }

    fn not_after(&self) -> SystemTime {
        self.2
    }
}

/// Lives for a day from `NOON` plus this many hours on.
fn fake(id: &'static str, hours: u32) -> Fake {
    Fake(id, noon_and(hours), noon_and(hours + 24))
}

fn noon_and(hours: u32) -> SystemTime {
    // Far from the epoch, so that tests can go back in time, too.
    NOON + 1000 * 24 * HOUR + HOUR * hours
}

fn holding(current: Fake, next: Next<Fake>) -> Rotation<Fake> {
    Rotation::resume(SlotId::A, Some(current), next)
}

#[test]
fn a_first_authority_is_journaled_and_published_before_it_is_used() {
    let now = noon_and(0);
    let mut rotation = Rotation::empty(SlotId::A);
    let one = fake("one", 0);
    let mut seen = vec![rotation.on_timer(now).unwrap()];
    for event in [Event::Done, Event::Issued(one.clone()), Event::Done, Event::Done, Event::Done] {
        assert!(rotation.current().is_none());
        seen.push(rotation.on_event(event, now).unwrap());
    }
    let slot = SlotId::A;
    assert_eq!(
        seen,
        [
            Action::GenerateKey { slot },
            Action::SelfSign { slot, issued_at: now },
            Action::Journal(Change::Prepared { slot, authority: one.clone(), first: true }),
            Action::Publish { slot, authority: one.clone() },
            Action::Journal(Change::Activated { id: "one".into() }),
            Action::Activate { slot, authority: one.clone() },
        ]
    );
    assert_eq!((rotation.current(), rotation.slot()), (Some(&one), SlotId::A));
    assert_eq!(rotation.on_event(Event::Done, now), None);
    assert_eq!(rotation.on_timer(now), None);
}

#[test]
fn a_successor_is_prepared_at_half_life_and_not_before() {
    let mut rotation = holding(fake("one", 0), Next::Empty);
    assert_eq!(rotation.on_timer(noon_and(12)), None);
    let just_after = noon_and(12) + Duration::from_secs(1);
    assert_eq!(rotation.on_timer(just_after), Some(Action::GenerateKey { slot: SlotId::B }));
}

#[test]
fn a_successor_takes_over_at_five_sixths_and_not_before() {
    let mut rotation = holding(fake("one", 0), Next::Prepared(fake("two", 12)));
    assert_eq!(rotation.on_timer(noon_and(20)), None);
    let just_after = noon_and(20) + Duration::from_secs(1);
    let journal = Action::Journal(Change::Activated { id: "two".into() });
    assert_eq!(rotation.on_timer(just_after), Some(journal));
    assert_eq!(rotation.current(), Some(&fake("one", 0)), "not before the journal is written");
    let activate = Action::Activate { slot: SlotId::B, authority: fake("two", 12) };
    assert_eq!(rotation.on_event(Event::Done, just_after), Some(activate));
    assert_eq!(rotation.next(), &Next::Old(fake("one", 0)));
}

#[test]
fn long_lives_are_capped_to_thirty_and_seven_days() {
    let year = Fake("long", noon_and(0), noon_and(365 * 24));
    assert_eq!(preparation_threshold(&year), noon_and(335 * 24));
    assert_eq!(activation_threshold(&year), noon_and(358 * 24));
}

#[test]
fn an_authority_of_a_minute_rotates() {
    let minute = Fake("short", noon_and(0), noon_and(0) + Duration::from_secs(60));
    assert_eq!(preparation_threshold(&minute), noon_and(0) + Duration::from_secs(30));
    assert_eq!(activation_threshold(&minute), noon_and(0) + Duration::from_secs(50));
}

#[test]
fn a_failed_step_is_taken_again_with_the_same_authority() {
    let now = noon_and(13);
    let two = fake("two", 13);
    let mut rotation = holding(fake("one", 0), Next::Empty);
    rotation.on_timer(now);
    rotation.on_event(Event::Done, now);
    rotation.on_event(Event::Issued(two.clone()), now);
    assert_eq!(rotation.on_event(Event::Failed, now), None);
    let journal =
        Action::Journal(Change::Prepared { slot: SlotId::B, authority: two.clone(), first: false });
    assert_eq!(rotation.on_timer(now), Some(journal));
    rotation.on_event(Event::Done, now);
    assert_eq!(rotation.on_event(Event::Failed, now), None);
    let publish = Action::Publish { slot: SlotId::B, authority: two.clone() };
    assert_eq!(rotation.on_timer(now), Some(publish.clone()));
    assert_eq!(rotation.on_timer(now), Some(publish), "no answer is a failure, too");
    assert_eq!(rotation.on_event(Event::Done, now), None);
    assert_eq!(rotation.next(), &Next::Prepared(two));
}

#[test]
fn a_key_that_could_not_sign_is_made_again() {
    let now = noon_and(13);
    let mut rotation = holding(fake("one", 0), Next::Empty);
    rotation.on_timer(now);
    rotation.on_event(Event::Done, now);
    rotation.on_event(Event::Failed, now);
    assert_eq!(rotation.on_timer(now), Some(Action::GenerateKey { slot: SlotId::B }));
}

#[test]
fn an_authority_that_waited_half_its_life_for_the_bundle_is_given_up() {
    let mut rotation = Rotation::empty(SlotId::A);
    let now = noon_and(0);
    rotation.on_timer(now);
    rotation.on_event(Event::Done, now);
    rotation.on_event(Event::Issued(fake("one", 0)), now);
    rotation.on_event(Event::Done, now);
    rotation.on_event(Event::Failed, now);
    let publish = Action::Publish { slot: SlotId::A, authority: fake("one", 0) };
    assert_eq!(rotation.on_timer(noon_and(12)), Some(publish));
    rotation.on_event(Event::Failed, noon_and(12));
    let elsewhere = Action::GenerateKey { slot: SlotId::B };
    assert_eq!(rotation.on_timer(noon_and(13)), Some(elsewhere), "A may be what names the journal");
}

#[test]
fn a_jump_beyond_every_expiry_makes_a_new_authority_at_once() {
    let mut rotation = holding(fake("one", 0), Next::Prepared(fake("two", 12)));
    let later = noon_and(24 * 365);
    assert_eq!(rotation.on_timer(later), Some(Action::GenerateKey { slot: SlotId::B }));
    rotation.on_event(Event::Done, later);
    let three = fake("three", 24 * 365);
    rotation.on_event(Event::Issued(three.clone()), later);
    rotation.on_event(Event::Done, later);
    let journal = Action::Journal(Change::Activated { id: "three".into() });
    assert_eq!(rotation.on_event(Event::Done, later), Some(journal));
    let activate = Action::Activate { slot: SlotId::B, authority: three };
    assert_eq!(rotation.on_event(Event::Done, later), Some(activate));
}

#[test]
fn a_clock_set_far_back_replaces_what_nobody_would_accept() {
    let mut rotation = holding(fake("one", 0), Next::Prepared(fake("two", 12)));
    let slightly = noon_and(12) - Duration::from_secs(60);
    assert_eq!(rotation.on_timer(slightly), None, "a correction of the clock changes nothing");
    let far = noon_and(0) - 10 * HOUR;
    assert_eq!(rotation.on_timer(far), Some(Action::GenerateKey { slot: SlotId::B }));
}

#[test]
fn operators_get_the_known_answers() {
    let now = noon_and(1);
    let mut empty = Rotation::<Fake>::empty(SlotId::A);
    assert_eq!(empty.prepare(now).unwrap_err().to_string(), "server is initializing");

    let mut rotation = holding(fake("one", 0), Next::Old(fake("zero", 0)));
    let answer = |result: Result<Action<Fake>, AuthorityError>| result.unwrap_err().to_string();
    assert_eq!(answer(rotation.activate("", now)), "no authority ID provided");
    assert_eq!(answer(rotation.activate("what", now)), "unexpected authority ID");
    assert_eq!(
        answer(rotation.activate("zero", now)),
        "only Prepared authorities can be activated: unsupported local authority status: OLD"
    );
    let refused = |rotation: &Rotation<Fake>, id| rotation.check_taint(id).unwrap_err().to_string();
    assert_eq!(refused(&rotation, ""), "no authority ID provided");
    assert_eq!(refused(&rotation, "one"), "unable to taint current local authority");
    assert_eq!(refused(&rotation, "what"), "unexpected authority ID");
    assert_eq!(rotation.check_taint("zero").unwrap(), &fake("zero", 0));

    let mut rotation = holding(fake("one", 0), Next::Prepared(fake("two", 1)));
    assert_eq!(
        refused(&rotation, "two"),
        "only Old local authorities can be tainted: unsupported local authority status: PREPARED"
    );
    let journal = Action::Journal(Change::Activated { id: "two".into() });
    assert_eq!(rotation.activate("two", now).unwrap(), journal);
}

#[test]
fn preparing_again_after_a_lost_activation_first_names_the_current_authority_again() {
    let now = noon_and(1);
    let mut rotation = holding(fake("one", 0), Next::Prepared(fake("two", 1)));
    rotation.activate("two", now).unwrap();
    rotation.on_event(Event::Failed, now);
    assert_eq!(rotation.on_timer(now), None, "not due, and only the operator wanted it");
    let settle = Action::Journal(Change::Activated { id: "one".into() });
    assert_eq!(rotation.prepare(now).unwrap(), settle);
    let generate = Action::GenerateKey { slot: SlotId::B };
    assert_eq!(rotation.on_event(Event::Done, now), Some(generate));
}
