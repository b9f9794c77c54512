use domain::{MembershipKey, Removal, Signature};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;
use crate::core::view::tests::NETWORK;

#[test]
fn who_was_removed_after_it_was_vouched_for_is_out_until_newer_removals_do_not_name_it() {
    let mut known = known();
    assert_eq!(verdict(&known, CAROL, 5), Verdict::Member);
    assert!(known.take_removals(&removals(9, 0, &[(CAROL, 9)])));
    assert_eq!(verdict(&known, CAROL, 8), Verdict::Removed);
    assert_eq!(verdict(&known, CAROL, 9), Verdict::Member, "the server's word is as new");
    assert_eq!(verdict(&known, BOB, 1), Verdict::Member);
    assert!(known.take_removals(&removals(12, 0, &[])));
    assert_eq!(verdict(&known, CAROL, 8), Verdict::Member);
}

#[test]
fn what_is_below_the_floor_of_newer_removals_stays_as_it_was() {
    let mut known = known();
    assert!(known.take_removals(&removals(9, 0, &[(CAROL, 9)])));
    // Continues where the first ends: of nobody who was a member before is anything unknown.
    assert!(known.take_removals(&removals(40, 9, &[(DAVE, 30)])));
    assert_eq!(
        [CAROL, DAVE, BOB].map(|client| verdict(&known, client, 1)),
        [Verdict::Removed, Verdict::Removed, Verdict::Member]
    );
    // Between the revisions 40 and 60 somebody may have been removed unseen.
    assert!(known.take_removals(&removals(90, 60, &[])));
    assert_eq!(
        [CAROL, DAVE, BOB].map(|client| verdict(&known, client, 1)),
        [Verdict::Removed, Verdict::Removed, Verdict::Unproven]
    );
    assert_eq!(verdict(&known, BOB, 60), Verdict::Member);
}

#[test]
fn older_forged_and_foreign_removals_change_nothing() {
    let mut known = known();
    assert!(known.take_removals(&removals(9, 0, &[])));
    let claim = removals(10, 0, &[(CAROL, 10)]).claim().clone();
    let forged = Signed::sign(claim.clone(), &key(66), |message| sign(66, message));
    let named = Signed::sign(claim, &key(1), |message| sign(66, message));
    for wrong in [removals(9, 0, &[(CAROL, 8)]), removals(3, 0, &[(CAROL, 3)]), forged, named] {
        assert!(!known.take_removals(&wrong));
        assert_eq!(verdict(&known, CAROL, 1), Verdict::Member);
    }
    let elsewhere =
        Removals { network: NetworkId::from_bytes([8; 16]), ..removals(10, 0, &[(CAROL, 10)]).claim().clone() };
    assert!(known.take_removals(&Signed::sign(elsewhere, &key(1), |message| sign(1, message))));
    assert_eq!(verdict(&known, CAROL, 1), Verdict::Member, "of another network");
}

#[test]
fn a_ticket_counts_for_its_client_and_network_while_it_is_fresh_and_newer() {
    let (mut known, now) = (known(), Instant::now());
    assert!(known.take_removals(&removals(100, 50, &[])));
    assert_eq!(verdict(&known, BOB, 1), Verdict::Unproven);
    let elsewhere = Signed::sign(
        MembershipTicket { network: NetworkId::from_bytes([8; 16]), ..*ticket(BOB, 60).claim() },
        &key(1),
        |message| sign(1, message),
    );
    let expired = Signed::sign(MembershipTicket { expires: TIME, ..*ticket(BOB, 60).claim() }, &key(1), |message| {
        sign(1, message)
    });
    let forged = Signed::sign(*ticket(BOB, 60).claim(), &key(1), |message| sign(66, message));
    for wrong in [ticket(CAROL, 60), elsewhere, expired, forged] {
        assert!(!known.take_shown(now, NETWORK, BOB, &wrong));
        assert_eq!(verdict(&known, BOB, 1), Verdict::Unproven);
    }
    assert!(known.take_shown(now, NETWORK, BOB, &ticket(BOB, 40)), "true, and too old to help");
    assert_eq!(verdict(&known, BOB, 1), Verdict::Unproven);
    assert!(known.take_shown(now, NETWORK, BOB, &ticket(BOB, 60)));
    assert_eq!(verdict(&known, BOB, 1), Verdict::Member);
    assert!(!known.take_shown(now, NETWORK, BOB, &ticket(BOB, 60)), "shown again, it says nothing new");
    // Who was banned has no ticket of a later revision.
    assert!(known.take_removals(&removals(101, 50, &[(BOB, 101)])));
    assert!(!known.take_shown(now, NETWORK, BOB, &ticket(BOB, 60)));
    assert_eq!(verdict(&known, BOB, 1), Verdict::Removed);
}

#[test]
fn a_flood_of_signatures_costs_sixteen_checks_and_then_one_in_ten_seconds() {
    let (mut known, start) = (known(), Instant::now());
    let checked = |known: &mut Memberships, now| (0..100).filter(|_| known.gossip.may_check(now, BOB)).count();
    assert_eq!(checked(&mut known, start), 16);
    assert_eq!(checked(&mut known, start + Duration::from_secs(35)), 3);
    assert!(known.gossip.may_check(start, CAROL), "others are not held up");
}

#[test]
fn keys_rotate_and_what_was_taken_stays() {
    let (mut known, now) = (known(), Instant::now());
    assert!(known.take_removals(&removals(9, 0, &[(CAROL, 9)])));
    known.handle_session(now, TIME, &[key(2), key(1)]);
    assert!(known.take_removals(&removals(10, 0, &[(CAROL, 9)])));
    known.handle_session(now, TIME, &[key(2)]);
    assert!(!known.take_removals(&removals(11, 0, &[])), "that key is not announced any more");
    assert_eq!(verdict(&known, CAROL, 1), Verdict::Removed);
    // An older server announces none: those at hand stay.
    known.handle_session(now, TIME, &[]);
    assert_eq!(known.keys, [key(2)]);
}

#[test]
fn what_is_known_and_the_time_survive_a_restart() {
    let (mut known, now) = (known(), Instant::now());
    known.take_removals(&removals(9, 2, &[(CAROL, 9)]));
    known.take_own(BOB, &ticket(BOB, 9));
    known.take_shown(now, NETWORK, DAVE, &ticket(DAVE, 7));
    let bytes = minicbor::to_vec(known.save()).unwrap();
    let mut restored = Memberships::default();
    restored.restore(now, minicbor::decode(&bytes).unwrap());
    assert_eq!((restored.save(), restored.time(now)), (known.save(), TIME));
    // The clock of a server that is slow does not turn it back; one that was days ahead is not believed for ever.
    restored.handle_session(now, UnixMillis(TIME.0 - 60_000), &[]);
    assert_eq!(restored.time(now + Duration::from_secs(1)), TIME.plus(Duration::from_secs(1)));
    let earlier = UnixMillis(TIME.0 - 2 * 86_400_000);
    restored.handle_session(now, earlier, &[]);
    assert_eq!(restored.time(now), earlier);
}

#[test]
fn the_memory_of_removals_is_bounded_and_what_is_forgotten_is_doubted() {
    let mut known = known();
    for batch in 0..200_u64 {
        let client =
            |nth: u64| ClientId::from_bytes([batch.to_be_bytes(), nth.to_be_bytes()].concat().try_into().unwrap());
        let (floor, last) = (batch * 32, (batch + 1) * 32);
        let named: Vec<_> = (0..32).map(|nth| (client(nth), last - nth)).collect();
        assert!(known.take_removals(&removals(last, floor, &named)));
    }
    let about = &known.known[&NETWORK];
    assert_eq!(about.removed.len(), MAX_REMOVED);
    assert_eq!(about.floor, Revision(200 * 32 - MAX_REMOVED as u64));
    assert_eq!(verdict(&known, BOB, 1), Verdict::Unproven);
}

/// With the deployment's key, at [`TIME`].
fn known() -> Memberships {
    let mut known = Memberships::default();
    known.handle_session(Instant::now(), TIME, &[key(1)]);
    known
}

fn verdict(known: &Memberships, client: ClientId, told: u64) -> Verdict {
    known.verdict(NETWORK, client, Revision(told))
}

pub(in crate::core) fn removals(revision: u64, floor: u64, named: &[(ClientId, u64)]) -> Signed<Removals> {
    let removed = named.iter().map(|&(client, revision)| Removal { client, revision: Revision(revision) }).collect();
    let (revision, floor) = (Revision(revision), Revision(floor));
    let removals = Removals { network: NETWORK, revision, floor, issued: TIME, removed };
    Signed::sign(removals, &key(1), |message| sign(1, message))
}

pub(in crate::core) fn ticket(client: ClientId, revision: u64) -> Signed<MembershipTicket> {
    let (revision, expires) = (Revision(revision), TIME.plus(TICKET_LIFETIME));
    let ticket = MembershipTicket { network: NETWORK, client, revision, issued: TIME, expires };
    Signed::sign(ticket, &key(1), |message| sign(1, message))
}

/// The first one is the deployment's.
pub(in crate::core) fn key(number: u8) -> MembershipKey {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
    MembershipKey::try_from(pair.public_key().as_ref()).unwrap()
}

fn sign(number: u8, message: &[u8]) -> Signature {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap();
    Signature::try_from(pair.sign(message).as_ref()).unwrap()
}

pub(in crate::core) const TIME: UnixMillis = UnixMillis(1_800_000_000_000);
const BOB: ClientId = ClientId::from_bytes([2; 16]);
const CAROL: ClientId = ClientId::from_bytes([3; 16]);
const DAVE: ClientId = ClientId::from_bytes([4; 16]);
