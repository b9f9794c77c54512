//! The control frames, byte for byte: a change here is a change of the protocol.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;

use domain::{
    AccountId, Admissions, Allocation, AttachCode, Bandwidth, BlockNotice, Candidate, ClientAccount, ClientId, Degree,
    Epoch, Filtering, Holder, IdentityKey, InstanceId, Invite, InviteId, InviteToken, KeyRotation, KnownNetwork,
    Lineage, MAX_ROUTES, MAX_SUCCESSIONS, Mapping, Member, MembershipKey, MembershipTicket, NatClass, NatProfile,
    NetworkChange, NetworkId, NetworkKind, NetworkOrder, NetworkTerms, NewInvite, NewPassword, NewSecret, Observation,
    Outsider, PairOutcome, PairRecord, PeerPresence, PunchId, PunchOrder, PunchPreparation, PunchReady, PunchReport,
    RelayCandidate, RelayChoice, RelayId, RelayLoss, RelayOffer, RelayPlace, RelayTrip, RelayTrips, RelayVerdict,
    RelayWhy, Removal, Removals, Revision, Role, Route, Seal, SecretEpoch, SecretProof, SecretState, SessionTag,
    Signature, Signed, Spray, Strategy, Succession, TunnelKey, UnixMillis, VirtualAddresses, Wanted,
};
use proptest::prelude::*;
use wire::{
    Code,
    control::{
        ClientFrame, FrameError, Joined, Login, MAX_FRAME, MAX_MEMBERS_PER_FRAME, NatReport, Refused, Reply, Request,
        ServerFrame, Welcome,
    },
    work::{Puzzle, Solution},
};

const VECTORS: &str = include_str!("vectors/control.txt");

const SECRET: SecretState = SecretState {
    epoch: SecretEpoch(u64::MAX),
    door: SecretEpoch(u64::MAX - 1),
    wanted: Wanted::Now,
    lacking: u32::MAX,
};

const TERMS: NetworkTerms = NetworkTerms { locked: true, approval: true, applicants: u32::MAX, kind: NetworkKind::Hub };

/// Without the eighth field.
const OLDER_OFFER: &str = "820a8187501111111111111111111111111111111150444444444444444444444444444444448182008244cb0071011901bb\
    43010203582007070707070707070707070707070707070707070707070707070707070707071903e81b0000018bcfe65260";

/// Without the tenth field.
const OLDER_WELCOME: &str = "820081895011111111111111111111111111111111f661741b0000018bcfe5680019ea6050050505050505050505050505050\
    505058182008244cb007101190d960a1830";
/// With members of nine fields, and without the seventh of its own.
const OLDER_CHANGE: &str = "82038186502222222222222222222222222222222266667269646179030481895011111111111111111111111111111111582001010101\
    01010101010101010101010101010101010101010101010101010101582002020202020202020202020202020202020202020202020202\
    02020202020202584003030303030303030303030303030303030303030303030303030303030303030303030303030303030303030303\
    03030303030303030303030303030303030364616e6e6182446440000150fd00000000000000000000000000000104f400f4";

#[test]
fn every_frame_has_its_bytes_and_reads_back() {
    let mut actual = String::new();
    for (name, frame) in client_frames() {
        assert_eq!(ClientFrame::decode(&frame.encode()).unwrap(), frame);
        writeln!(actual, "client.{name} {}", hex(&frame.encode())).unwrap();
    }
    for (name, frame) in server_frames() {
        assert_eq!(ServerFrame::decode(&frame.encode()).unwrap(), frame);
        writeln!(actual, "server.{name} {}", hex(&frame.encode())).unwrap();
    }
    for (actual, golden) in actual.lines().zip(VECTORS.lines()) {
        assert_eq!(actual, golden);
    }
    assert_eq!(actual.lines().count(), VECTORS.lines().count(), "{actual}");
}

#[test]
fn an_offer_of_an_older_server_names_no_streams() {
    let older: Vec<_> = OLDER_OFFER.as_bytes().chunks(2).map(digits).collect();
    let ServerFrame::Relay(offer) = ServerFrame::decode(&older).unwrap() else { panic!("another frame") };
    assert!(offer.streams.is_empty());
    assert_eq!(offer.leg_key, [7; 32]);
}

#[test]
fn a_welcome_of_an_older_server_names_no_relays() {
    let older: Vec<_> = OLDER_WELCOME.as_bytes().chunks(2).map(digits).collect();
    let ServerFrame::Welcome(welcome) = ServerFrame::decode(&older).unwrap() else { panic!("another frame") };
    assert!(welcome.relays.is_empty() && welcome.membership_keys.is_empty());
    assert_eq!(welcome.prefix6, 48);
}

#[test]
fn a_field_of_a_newer_version_is_skipped() {
    // Pong with a second field, a text.
    let newer = [0x82, 0x02, 0x82, 0x07, 0x63, b'n', b'e', b'w'];
    assert_eq!(ServerFrame::decode(&newer).unwrap(), ServerFrame::Pong(7));
}

#[test]
fn a_message_of_a_newer_version_is_unknown_not_malformed() {
    let newer = [0x82, 0x18, 0xff, 0x80];
    assert!(matches!(ServerFrame::decode(&newer), Err(FrameError::Unknown)));
    assert!(matches!(ClientFrame::decode(&newer), Err(FrameError::Unknown)));
}

#[test]
fn a_frame_ends_where_its_value_ends() {
    let mut bytes = ClientFrame::Goodbye.encode();
    bytes.push(0);
    assert!(matches!(ClientFrame::decode(&bytes), Err(FrameError::Trailing { count: 1 })));
    assert!(matches!(ClientFrame::decode(&[]), Err(FrameError::Malformed(_))));
}

#[test]
fn a_frame_is_bounded() {
    let largest = vec![0; MAX_FRAME];
    assert!(!matches!(ClientFrame::decode(&largest), Err(FrameError::TooLarge { .. })));
    let larger = vec![0; MAX_FRAME + 1];
    assert!(matches!(ClientFrame::decode(&larger), Err(FrameError::TooLarge { size }) if size == MAX_FRAME + 1));
}

#[test]
fn a_change_with_the_most_members_fits_a_frame() {
    let nick = Some("n".repeat(64).parse().unwrap());
    let widest = Member { nick, unseated: true, kept: true, ..member() };
    let frame = ServerFrame::Change(NetworkChange {
        network: NetworkId::from_bytes([0xff; 16]),
        name: "n".repeat(64).parse().unwrap(),
        since: Revision(u64::MAX),
        revision: Revision(u64::MAX),
        members: vec![widest; MAX_MEMBERS_PER_FRAME],
        left: false,
        terms: TERMS,
        secret: SECRET,
    });
    assert!(frame.encode().len() <= MAX_FRAME, "{}", frame.encode().len());
}

#[test]
fn members_with_the_most_routes_fit_a_frame_by_their_weight() {
    let route = |nth: usize| Route { prefix: format!("fdff:{nth}::/128").parse().unwrap(), agreed: true };
    let nick = Some("n".repeat(64).parse().unwrap());
    let gateway = Member { nick, routes: (0..MAX_ROUTES).map(route).collect(), ..member() };
    assert_eq!(gateway.weight(), 2);
    let frame = ServerFrame::Change(NetworkChange {
        network: NetworkId::from_bytes([0xff; 16]),
        name: "n".repeat(64).parse().unwrap(),
        since: Revision(u64::MAX),
        revision: Revision(u64::MAX),
        members: vec![gateway; MAX_MEMBERS_PER_FRAME / 2],
        left: false,
        terms: NetworkTerms { kind: NetworkKind::Gateway, ..TERMS },
        secret: SECRET,
    });
    assert!(frame.encode().len() <= MAX_FRAME, "{}", frame.encode().len());
}

#[test]
fn a_client_that_knows_no_gateways_sees_hubs_that_lead_nowhere() {
    // Of what there is to know of a member and of the terms, such a client reads the first so many fields.
    #[derive(minicbor::Decode)]
    struct OlderMember {
        #[n(11)]
        hub: bool,
    }
    #[derive(minicbor::Decode)]
    struct OlderTerms {
        #[n(3)]
        kind: NetworkKind,
    }
    #[derive(minicbor::Decode)]
    struct OlderChange {
        #[n(4)]
        members: Vec<OlderMember>,
        #[n(6)]
        terms: OlderTerms,
    }
    let older: OlderChange = minicbor::decode(&minicbor::to_vec(gateway_change()).unwrap()).unwrap();
    assert_eq!((older.members[0].hub, older.terms.kind), (true, NetworkKind::Hub));
}

#[test]
fn a_client_that_knows_no_seats_reads_all_else_of_members_without_one() {
    #[derive(minicbor::Decode)]
    struct OlderMember {
        #[n(11)]
        hub: bool,
        #[n(12)]
        #[cbor(skip_if = "Vec::is_empty")]
        routes: Vec<Route>,
    }
    #[derive(minicbor::Decode)]
    struct OlderChange {
        #[n(4)]
        members: Vec<OlderMember>,
    }
    let older: OlderChange = minicbor::decode(&minicbor::to_vec(seats_change()).unwrap()).unwrap();
    assert!(older.members.len() == 2 && older.members.iter().all(|member| member.hub && member.routes.is_empty()));
}

#[test]
fn members_with_many_keys_fit_a_frame_by_their_weight() {
    let lineage = |keys| Lineage::claimed(IdentityKey::from_bytes([9; 32]), vec![succession(); keys]);
    for keys in [1, 2, 5, MAX_SUCCESSIONS] {
        let nick = Some("n".repeat(64).parse().unwrap());
        let member = Member { nick, lineage: Some(Box::new(lineage(keys))), ..member() };
        assert_eq!(member.weight(), keys + 1);
        let frame = ServerFrame::Change(NetworkChange {
            network: NetworkId::from_bytes([0xff; 16]),
            name: "n".repeat(64).parse().unwrap(),
            since: Revision(u64::MAX),
            revision: Revision(u64::MAX),
            members: vec![member; (MAX_MEMBERS_PER_FRAME / (keys + 1)).max(1)],
            left: false,
            terms: TERMS,
            secret: SECRET,
        });
        assert!(frame.encode().len() <= MAX_FRAME, "{keys}: {}", frame.encode().len());
    }
}

#[test]
fn the_longest_list_of_outsiders_fits_a_frame() {
    let longest = || Outsider { nick: Some("n".repeat(64).parse().unwrap()), ..outsider() };
    let frame = ServerFrame::Reply(
        u32::MAX,
        Reply::Admissions(Box::new(Admissions {
            applicants: (0..domain::MAX_APPLICANTS).map(|_| longest()).collect(),
            bans: (0..domain::MAX_BANS).map(|_| longest()).collect(),
            invites: (0..domain::MAX_INVITES).map(|_| Invite { expires: UnixMillis(u64::MAX), ..invite() }).collect(),
        })),
    );
    assert!(frame.encode().len() <= MAX_FRAME, "{}", frame.encode().len());
}

#[test]
fn a_refusal_of_an_older_server_names_no_block() {
    let ServerFrame::Refused(refused) = ServerFrame::decode(&[0x82, 1, 0x81, 0x81, 0x15]).unwrap() else { panic!() };
    assert_eq!(refused, Refused::because(Code::SignatureInvalid));
}

#[test]
fn the_largest_pages_of_secrets_fit_a_frame() {
    let widest = Seal { bytes: vec![0xff; Seal::MAX_BYTES], ..seal() };
    let password = NewPassword { record: vec![0xff; 256], wrapped_secret: vec![0xff; 256] };
    let new = NewSecret { seals: vec![widest.clone(); domain::MAX_SEALS], ..new_secret(Some(password)) };
    let frames = [
        ClientFrame::Request(u32::MAX, Request::RenewSecret(network(), Box::new(new))).encode(),
        ClientFrame::Request(
            u32::MAX,
            Request::HandSecret(network(), SecretEpoch(u64::MAX), vec![widest; domain::MAX_SEALS]),
        )
        .encode(),
        ServerFrame::Reply(
            u32::MAX,
            Reply::Holders(vec![Holder { epoch: SecretEpoch(u64::MAX), ..holder() }; domain::MAX_HOLDERS], true),
        )
        .encode(),
    ];
    for frame in frames {
        assert!(frame.len() <= MAX_FRAME, "{}", frame.len());
    }
}

#[test]
fn a_member_and_a_change_of_an_older_server_have_the_usual_role_and_terms() {
    let older: Vec<_> = OLDER_CHANGE.as_bytes().chunks(2).map(digits).collect();
    let ServerFrame::Change(change) = ServerFrame::decode(&older).unwrap() else { panic!("another frame") };
    assert_eq!((change.members[0].role, change.terms), (Role::Member, NetworkTerms::default()));
    assert_eq!(change.secret, SecretState::default());
    assert_eq!(change.members[0].nick, member().nick);
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = ClientFrame::decode(&bytes);
        let _ = ServerFrame::decode(&bytes);
    }

    #[test]
    fn no_damage_to_a_frame_makes_the_decoders_panic(
        pick in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
        cut in any::<prop::sample::Index>(),
    ) {
        let frames: Vec<Vec<u8>> = client_frames().into_iter().map(|(_, frame)| frame.encode())
            .chain(server_frames().into_iter().map(|(_, frame)| frame.encode())).collect();
        let mut bytes = frames[pick.index(frames.len())].clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(frame) = ClientFrame::decode(&bytes) {
            prop_assert_eq!(ClientFrame::decode(&frame.encode()).unwrap(), frame);
        }
        if let Ok(frame) = ServerFrame::decode(&bytes) {
            prop_assert_eq!(ServerFrame::decode(&frame.encode()).unwrap(), frame);
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing(kind in 0_u8..12, length in any::<u64>()) {
        let mut bytes = vec![0x82, kind, 0x82, 0x9b];
        bytes.extend_from_slice(&length.to_be_bytes());
        prop_assert!(ClientFrame::decode(&bytes).is_err());
        prop_assert!(ServerFrame::decode(&bytes).is_err());
    }
}

fn digits(pair: &[u8]) -> u8 {
    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn client() -> ClientId {
    ClientId::from_bytes([0x11; 16])
}

fn network() -> NetworkId {
    NetworkId::from_bytes([0x22; 16])
}

fn punch() -> PunchId {
    PunchId { leader: InstanceId::from_bytes([0x33; 16]), number: 7 }
}

fn addresses() -> VirtualAddresses {
    VirtualAddresses { v4: Some([100, 64, 0, 1].into()), v6: "fd00::1".parse().unwrap() }
}

fn rotation() -> KeyRotation {
    KeyRotation {
        succession: succession(),
        tunnel: TunnelKey::from_bytes([7; 32]),
        tunnel_signature: Signature::from_bytes([8; 64]),
    }
}

fn succession() -> Succession {
    let [farewell, consent] = [5, 6].map(|byte| Signature::from_bytes([byte; 64]));
    Succession { identity: IdentityKey::from_bytes([4; 32]), farewell, consent }
}

fn member() -> Member {
    Member {
        client: client(),
        identity: IdentityKey::from_bytes([1; 32]),
        tunnel: TunnelKey::from_bytes([2; 32]),
        tunnel_signature: Signature::from_bytes([3; 64]),
        nick: Some("anna".parse().unwrap()),
        addresses: addresses(),
        revision: Revision(4),
        gone: false,
        presence: Some(PeerPresence::Online),
        role: Role::Admin,
        lineage: None,
        hub: true,
        unseated: false,
        kept: false,
        routes: Vec::new(),
    }
}

fn gateway_change() -> NetworkChange {
    NetworkChange {
        network: network(),
        name: "friday".parse().unwrap(),
        since: Revision(3),
        revision: Revision(4),
        members: vec![Member { routes: routes(), ..member() }],
        left: false,
        terms: NetworkTerms { kind: NetworkKind::Gateway, ..TERMS },
        secret: SECRET,
    }
}

fn seats_change() -> NetworkChange {
    let unseated = Member { unseated: true, ..member() };
    NetworkChange { members: vec![unseated, Member { kept: true, ..member() }], ..gateway_change() }
}

fn routes() -> Vec<Route> {
    vec![
        Route { prefix: "192.168.50.0/24".parse().unwrap(), agreed: true },
        Route { prefix: "fd12:3456:789a::/64".parse().unwrap(), agreed: false },
    ]
}

fn record() -> PairRecord {
    PairRecord {
        a: client(),
        b: ClientId::from_bytes([0x12; 16]),
        class_a: Some(NatClass::Easy),
        class_b: None,
        strategy: Strategy::Direct,
        outcome: PairOutcome::Pending,
        attempts: 1,
        started: UnixMillis(1_000),
        took_ms: 5,
        packets: 6,
        relay: Some(RelayId::from_bytes([0x44; 16])),
        hint: "so".into(),
        trace: 9,
        via: None,
        budget: 0,
        places: [0; 2],
        choice: None,
    }
}

fn puzzle() -> Puzzle {
    Puzzle { seed: [0x99; 32], bits: 20, until: UnixMillis(1_700_000_000_000) }
}

fn notice() -> BlockNotice {
    BlockNotice { degree: Degree::Refuse, reason: "spam".parse().unwrap(), until: UnixMillis(1_700_000_000_000) }
}

fn place() -> RelayPlace {
    RelayPlace { relay: RelayId::from_bytes([0x44; 16]), endpoints: vec!["203.0.113.1:443".parse().unwrap()] }
}

fn choice() -> RelayChoice {
    RelayChoice {
        of: [client(), ClientId::from_bytes([0x12; 16])],
        why: RelayWhy::Nearest,
        candidates: vec![RelayCandidate {
            relay: RelayId::from_bytes([0x44; 16]),
            region: "here".into(),
            rtts_us: [Some(20_000), None],
            slots: 7,
            max_slots: 1_000,
            verdict: RelayVerdict::Chosen,
        }],
        losses: vec![RelayLoss { relay: RelayId::from_bytes([0x45; 16]), until: UnixMillis(2_000) }],
        at: UnixMillis(1_000),
        retry_after_ms: None,
    }
}

fn client_frames() -> Vec<(&'static str, ClientFrame)> {
    let name = || "friday".parse().unwrap();
    let known = KnownNetwork { network: network(), revision: Revision(3) };
    vec![
        (
            "login",
            ClientFrame::Login(Box::new(Login {
                version: 1,
                identity: IdentityKey::from_bytes([1; 32]),
                tunnel: TunnelKey::from_bytes([2; 32]),
                tunnel_signature: Signature::from_bytes([3; 64]),
                signature: Signature::from_bytes([4; 64]),
                nick: None,
                token: Some("a.b.c".into()),
                known: vec![known],
                client: None,
            })),
        ),
        (
            "login-later-key",
            ClientFrame::Login(Box::new(Login {
                version: 1,
                identity: IdentityKey::from_bytes([1; 32]),
                tunnel: TunnelKey::from_bytes([2; 32]),
                tunnel_signature: Signature::from_bytes([3; 64]),
                signature: Signature::from_bytes([4; 64]),
                nick: None,
                token: None,
                known: Vec::new(),
                client: Some(client()),
            })),
        ),
        ("ping", ClientFrame::Ping(300)),
        ("sync", ClientFrame::Sync(vec![known])),
        ("create-start", ClientFrame::Request(1, Request::CreateStart(name(), vec![1, 2]))),
        ("create-finish", ClientFrame::Request(2, Request::CreateFinish(name(), vec![1], vec![2]))),
        ("join-start", ClientFrame::Request(3, Request::JoinStart(name(), vec![1]))),
        ("join-finish", ClientFrame::Request(4, Request::JoinFinish(vec![1]))),
        ("leave", ClientFrame::Request(5, Request::Leave(network()))),
        ("set-nick", ClientFrame::Request(6, Request::SetNick("anna".parse().unwrap()))),
        ("connect", ClientFrame::Request(7, Request::Connect(client()))),
        ("why", ClientFrame::Request(8, Request::Why(client()))),
        ("changes-since", ClientFrame::Request(9, Request::ChangesSince(network(), Revision(2)))),
        (
            "nat",
            ClientFrame::Nat(NatReport {
                profile: NatProfile {
                    udp: true,
                    mapping: Some(Mapping::EndpointIndependent),
                    filtering: Some(Filtering::AddressAndPortDependent),
                    keeps_port: true,
                    unsure: false,
                    hops: 3,
                    ..NatProfile::BLOCKED
                },
                observations: vec![Observation(vec![9, 9])],
            }),
        ),
        (
            "punch-ready",
            ClientFrame::PunchReady(PunchReady {
                punch: punch(),
                observations: vec![Observation(vec![8])],
                local: vec!["192.168.1.2:4000".parse().unwrap()],
                mapped: None,
                lan: None,
            }),
        ),
        (
            "punch-report",
            ClientFrame::PunchReport(PunchReport {
                punch: punch(),
                endpoint: Some("203.0.113.5:4000".parse().unwrap()),
                rtt_us: 20_000,
                packets: 5,
                took_us: 90_000,
            }),
        ),
        (
            "nat-hard",
            ClientFrame::Nat(NatReport {
                profile: NatProfile {
                    udp: true,
                    mapping: Some(Mapping::AddressAndPortDependent),
                    allocation: Some(Allocation::Sequential { step: -2 }),
                    foreign_rate: 50,
                    pool: true,
                    hairpin: Some(true),
                    tcp: Some(Mapping::EndpointIndependent),
                    lifetime_s: Some(125),
                    port_mapping: true,
                    ipv6: true,
                    ..NatProfile::BLOCKED
                },
                observations: vec![],
            }),
        ),
        ("goodbye", ClientFrame::Goodbye),
        ("pong", ClientFrame::Pong(300)),
        ("relay", ClientFrame::Request(10, Request::Relay(client(), Some(RelayId::from_bytes([0x44; 16]))))),
        (
            "relay-trips",
            ClientFrame::RelayTrips(Box::new(
                RelayTrips::new(&[RelayTrip { relay: RelayId::from_bytes([0x44; 16]), rtt_us: 20_000 }]).unwrap(),
            )),
        ),
        ("evict", order(NetworkOrder::Evict(client()))),
        ("ban", order(NetworkOrder::Ban(client()))),
        ("unban", order(NetworkOrder::Unban(client()))),
        ("promote", order(NetworkOrder::Promote(client()))),
        ("demote", order(NetworkOrder::Demote(client()))),
        ("transfer", order(NetworkOrder::Transfer(client()))),
        ("lock", order(NetworkOrder::Lock)),
        ("unlock", order(NetworkOrder::Unlock)),
        ("rename", order(NetworkOrder::Rename(name()))),
        ("delete", order(NetworkOrder::Delete)),
        ("ask-approval", order(NetworkOrder::AskApproval)),
        ("waive-approval", order(NetworkOrder::WaiveApproval)),
        ("approve", order(NetworkOrder::Approve(client()))),
        ("reject", order(NetworkOrder::Reject(client()))),
        ("admissions", ClientFrame::Request(11, Request::Admissions(network()))),
        ("keys", ClientFrame::Request(12, Request::Keys(network()))),
        ("membership", ClientFrame::Request(13, Request::Membership(network()))),
        ("attach-account", ClientFrame::Request(20, Request::AttachAccount(AttachCode::from_random(0)))),
        ("detach-account", ClientFrame::Request(21, Request::DetachAccount)),
        ("account", ClientFrame::Request(22, Request::Account)),
        ("worked", ClientFrame::Worked(Box::new(Solution { puzzle: puzzle(), number: 7_251 }))),
        (
            "invite",
            order(NetworkOrder::Invite(NewInvite {
                id: InviteId::from_bytes([0x55; 16]),
                sealed_secret: vec![6],
                uses: 3,
                lifetime_s: 86_400,
                door: SecretEpoch(5),
            })),
        ),
        ("rotate-key", ClientFrame::Request(23, Request::RotateKey(Box::new(rotation())))),
        ("revoke", order(NetworkOrder::Revoke(InviteId::from_bytes([0x55; 16])))),
        ("hub", order(NetworkOrder::Hub(client()))),
        ("spoke", order(NetworkOrder::Spoke(client()))),
        ("set-kind", order(NetworkOrder::SetKind(NetworkKind::Hub))),
        ("set-kind-gateway", order(NetworkOrder::SetKind(NetworkKind::Gateway))),
        ("route", order(NetworkOrder::Route(client(), routes().iter().map(|route| route.prefix).collect()))),
        ("agree", order(NetworkOrder::Agree(vec![routes()[0].prefix]))),
        ("keep", order(NetworkOrder::Keep(client()))),
        ("unkeep", order(NetworkOrder::Unkeep(client()))),
        ("redeem", ClientFrame::Request(13, Request::Redeem(InviteToken([0x66; 32]), [0x77; 16]))),
        ("set-pass-start", ClientFrame::Request(14, Request::SetPassStart(network(), SecretEpoch(5), vec![1]))),
        ("renew-secret", ClientFrame::Request(15, Request::RenewSecret(network(), Box::new(new_secret(None))))),
        (
            "set-pass",
            ClientFrame::Request(
                16,
                Request::RenewSecret(
                    network(),
                    Box::new(new_secret(Some(NewPassword { record: vec![1], wrapped_secret: vec![2] }))),
                ),
            ),
        ),
        ("hand-secret", ClientFrame::Request(17, Request::HandSecret(network(), SecretEpoch(5), vec![seal()]))),
        ("holders", ClientFrame::Request(18, Request::Holders(network(), Some(client())))),
        ("sealed", ClientFrame::Request(19, Request::Sealed(network()))),
        ("prove", ClientFrame::Request(20, Request::Prove(network(), SecretEpoch(5), SecretProof([0x88; 16])))),
    ]
}

fn new_secret(password: Option<NewPassword>) -> NewSecret {
    NewSecret { epoch: SecretEpoch(5), seen: Revision(7), password, seals: vec![seal()] }
}

fn seal() -> Seal {
    Seal { member: client(), bytes: vec![9, 9] }
}

fn ticket() -> Signed<MembershipTicket> {
    let ticket = MembershipTicket {
        network: network(),
        client: client(),
        revision: Revision(7),
        issued: UnixMillis(1_700_000_000_000),
        expires: UnixMillis(1_700_086_400_000),
    };
    Signed::sign(ticket, &MembershipKey::from_bytes([9; 32]), |_| Signature::from_bytes([8; 64]))
}

fn removals() -> Signed<Removals> {
    let removals = Removals {
        network: network(),
        revision: Revision(7),
        floor: Revision(2),
        issued: UnixMillis(1_700_000_000_000),
        removed: vec![Removal { client: client(), revision: Revision(6) }],
    };
    Signed::sign(removals, &MembershipKey::from_bytes([9; 32]), |_| Signature::from_bytes([8; 64]))
}

fn holder() -> Holder {
    Holder { client: client(), epoch: SecretEpoch(5), proof: SecretProof([0x88; 16]), sealed: true }
}

fn order(order: NetworkOrder) -> ClientFrame {
    ClientFrame::Request(10, Request::Order(network(), order))
}

fn invite() -> Invite {
    Invite {
        id: InviteId::from_bytes([0x55; 16]),
        maker: client(),
        uses: u32::MAX,
        remaining: u32::MAX,
        expires: UnixMillis(1_700_000_060_000),
    }
}

fn outsider() -> Outsider {
    Outsider { client: client(), nick: Some("anna".parse().unwrap()), since: UnixMillis(1_700_000_000_000) }
}

fn server_frames() -> Vec<(&'static str, ServerFrame)> {
    vec![
        (
            "welcome",
            ServerFrame::Welcome(Box::new(Welcome {
                client: client(),
                nick: None,
                token: Some("t".into()),
                now: UnixMillis(1_700_000_000_000),
                keepalive_ms: 60_000,
                tag: SessionTag([5; 16]),
                reflectors: vec!["203.0.113.1:3478".parse().unwrap()],
                prefix4: 10,
                prefix6: 48,
                relays: Vec::new(),
                membership_keys: Vec::new(),
            })),
        ),
        ("refused", ServerFrame::Refused(Refused::because(Code::SignatureInvalid))),
        ("pong", ServerFrame::Pong(300)),
        (
            "change",
            ServerFrame::Change(NetworkChange {
                network: network(),
                name: "friday".parse().unwrap(),
                since: Revision(3),
                revision: Revision(4),
                members: vec![member()],
                left: false,
                terms: TERMS,
                secret: SECRET,
            }),
        ),
        ("change-gateway", ServerFrame::Change(gateway_change())),
        ("change-seats", ServerFrame::Change(seats_change())),
        (
            "change-later-key",
            ServerFrame::Change(NetworkChange {
                network: network(),
                name: "friday".parse().unwrap(),
                since: Revision(3),
                revision: Revision(4),
                members: vec![Member {
                    identity: succession().identity,
                    lineage: Some(Box::new(Lineage::claimed(IdentityKey::from_bytes([1; 32]), vec![succession()]))),
                    ..member()
                }],
                left: false,
                terms: TERMS,
                secret: SECRET,
            }),
        ),
        ("synced", ServerFrame::Synced(addresses(), vec![network()])),
        ("done", ServerFrame::Reply(1, Reply::Done)),
        ("registration", ServerFrame::Reply(2, Reply::Registration(vec![1]))),
        ("credential", ServerFrame::Reply(3, Reply::Credential(vec![1]))),
        (
            "joined",
            ServerFrame::Reply(
                4,
                Reply::Joined(Box::new(Joined {
                    network: network(),
                    name: "friday".parse().unwrap(),
                    addresses: addresses(),
                    wrapped_secret: vec![6],
                    warning: Some(Code::AddressPoolExhausted),
                    door: SecretEpoch(5),
                })),
            ),
        ),
        ("why", ServerFrame::Reply(5, Reply::Why(Some(Box::new(record()))))),
        ("refusal", ServerFrame::Refusal(6, Refused::after(Code::GuessLimit, std::time::Duration::from_secs(60)))),
        ("peer-up", ServerFrame::PeerUp(client())),
        ("peer-down", ServerFrame::PeerDown(client())),
        ("peer-lost", ServerFrame::PeerLost(client())),
        (
            "relay",
            ServerFrame::Relay(Box::new(RelayOffer {
                peer: client(),
                relay: RelayId::from_bytes([0x44; 16]),
                endpoints: vec!["203.0.113.1:443".parse().unwrap()],
                ticket: vec![1, 2, 3],
                leg_key: [7; 32],
                rate: Bandwidth::from_kbit_per_second(8),
                expires: UnixMillis(1_700_000_060_000),
                streams: vec!["relay.example:443".parse().unwrap()],
            })),
        ),
        (
            "prepare",
            ServerFrame::Prepare(PunchPreparation {
                punch: punch(),
                peer: client(),
                key: [8; 32],
                sockets: 0,
                tcp: false,
            }),
        ),
        (
            "go",
            ServerFrame::Go(PunchOrder {
                punch: punch(),
                strategy: Strategy::Reveal,
                wait_us: 20_000,
                gap_us: 50_000,
                opener_ttl: 4,
                candidates: vec![Candidate {
                    endpoint: "[2001:db8::1]:4000".parse().unwrap(),
                    local: false,
                    main: false,
                }],
                attempt: 1,
                spray: None,
                sockets: 0,
            }),
        ),
        (
            "go-spray",
            ServerFrame::Go(PunchOrder {
                punch: punch(),
                strategy: Strategy::Birthday,
                wait_us: 20_000,
                gap_us: 50_000,
                opener_ttl: 4,
                candidates: vec![Candidate { endpoint: "203.0.113.1:4000".parse().unwrap(), local: false, main: true }],
                attempt: 2,
                spray: Some(Spray::Scatter { low: 1_024, high: 65_534, step: 2, seed: 5, skip: 1_024, count: 512 }),
                sockets: 64,
            }),
        ),
        ("record", ServerFrame::Record(Box::new(record()))),
        ("resync", ServerFrame::Resync),
        ("token", ServerFrame::Token("t".into())),
        ("goodbye", ServerFrame::Goodbye(Refused::because(Code::Replaced))),
        ("punch-off", ServerFrame::PunchOff(punch())),
        ("ping", ServerFrame::Ping(300)),
        ("relays", ServerFrame::Relays(vec![place()])),
        ("relay-silent", ServerFrame::RelaySilent(RelayId::from_bytes([0x44; 16]))),
        ("record-choice", ServerFrame::Record(Box::new(PairRecord { choice: Some(Box::new(choice())), ..record() }))),
        ("awaiting", ServerFrame::Reply(7, Reply::Awaiting(network(), "friday".parse().unwrap()))),
        (
            "account",
            ServerFrame::Reply(
                20,
                Reply::Account(Some(Box::new(ClientAccount {
                    account: AccountId::from_bytes([0x66; 16]),
                    plan: "free".into(),
                }))),
            ),
        ),
        ("no-account", ServerFrame::Reply(21, Reply::Account(None))),
        ("work", ServerFrame::Work(Box::new(puzzle()))),
        (
            "refused-block",
            ServerFrame::Refused(Refused { block: Some(Box::new(notice())), ..Refused::because(Code::Blocked) }),
        ),
        (
            "admissions",
            ServerFrame::Reply(
                8,
                Reply::Admissions(Box::new(Admissions {
                    applicants: vec![outsider()],
                    bans: vec![Outsider { nick: None, ..outsider() }],
                    invites: vec![invite()],
                })),
            ),
        ),
        ("keys", ServerFrame::Reply(9, Reply::Keys(vec![6], SecretEpoch(5)))),
        ("holders", ServerFrame::Reply(10, Reply::Holders(vec![holder()], true))),
        ("sealed", ServerFrame::Reply(11, Reply::Sealed(Some(Box::new(seal()))))),
        ("membership", ServerFrame::Reply(13, Reply::Membership(Box::new(ticket()), Box::new(removals())))),
        ("removals", ServerFrame::Removals(Box::new(removals()))),
        ("sealed-nothing", ServerFrame::Reply(12, Reply::Sealed(None))),
    ]
}

#[test]
fn an_epoch_is_a_plain_number() {
    assert_eq!(minicbor::to_vec(Epoch(1)).unwrap(), [1]);
}
