// SPDX-License-Identifier: Apache-2.0 OR MIT
// Forwards the DATA of proven IPv4 legs where the interface hands packets over, before the kernel's stack sees them.
//
// An entry of `pairs` is made by the worker that owns the slot, once both legs have proved themselves, and is the same truth as
// in user space: a datagram goes on only from one leg's address, to the door that this leg joined by, and is charged to the
// pair's bucket and counted to the leg first. Whatever is not exactly that goes up unchanged: joins, pings, STUN, strangers,
// what is over the cap or beyond what a leg may send without a look at who pays (it was not charged), fragments, options, tags, a next hop that is unknown or behind another interface.
//
// Built by `build`; the object stands beside this file, so that nobody needs clang.
#include "bpf.h"
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#define DATA be32(0xb0000000u)
#define HEADER 8
#define MAX_DATAGRAM 2048
#define AF_INET 2
#define DONT_FRAGMENT be16(0x4000)
#define TTL 64

static long (*const csum_diff)(void *from, __u32 from_size, void *to, __u32 to_size, __u32 seed) = (void *)BPF_FUNC_csum_diff;
static long (*const fib_lookup)(void *ctx, struct bpf_fib_lookup *fib, int size, __u32 flags) = (void *)BPF_FUNC_fib_lookup;
static long (*const lock)(struct bpf_spin_lock *lock) = (void *)BPF_FUNC_spin_lock;
static long (*const unlock)(struct bpf_spin_lock *lock) = (void *)BPF_FUNC_spin_unlock;

// `local` is the door that the leg joined by. `mac` is the next hop that the leg's last datagram came from, for hosts that do not
// route and whose routes a program may therefore not look up; `known` is the interface of it.
struct leg {
	__be32 peer, local;
	__be16 peer_port, local_port;
	__u8 mac[ETH_ALEN];
	__u16 unused;
	__u32 known;
};

// The bucket is that of bucket.rs: the instant when it is full again, on the monotonic clock. A pace of 0 is no limit.
struct pair {
	struct bpf_spin_lock lock;
	__u32 unused;
	struct leg legs[2];
	__u64 full_at, pace, depth, seen;
	// How far the count of each leg in `spent` may go here before the worker looks at who pays.
	__u64 limit[2];
};

// What the legs of a place sent that was forwarded here, ever. Written here only: a worker that writes the pair loses none of it.
struct spent {
	__u64 bytes[2];
};

struct totals {
	__u64 packets, bytes;
};

struct {
	int (*type)[BPF_MAP_TYPE_HASH];
	int (*max_entries)[65536];
	int (*map_flags)[BPF_F_NO_PREALLOC];
	__u32 *key;
	struct pair *value;
} pairs SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[65536];
	__u32 *key;
	struct spent *value;
} spent SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_PERCPU_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct totals *value;
} totals SEC(".maps");

INLINE __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)~sum;
}

// Takes `bytes` out of the bucket, if they are there.
INLINE int charge(struct pair *pair, __u64 now, __u64 bytes)
{
	__u64 full_at = pair->full_at > now ? pair->full_at : now;

	if (pair->pace) {
		full_at += bytes * pair->pace / 1024;
		if (full_at - now > pair->depth)
			return 0;
		pair->full_at = full_at;
	}
	pair->seen = now;
	return 1;
}

SEC("xdp")
int forward(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	struct udphdr *udp = (void *)ip + sizeof(*ip);
	__be32 *header = (void *)udp + sizeof(*udp);

	if ((void *)header + HEADER > end || eth->h_proto != be16(ETH_P_IP))
		return XDP_PASS;
	if (*(__u8 *)ip != 0x45 || ip->protocol != IPPROTO_UDP || ip->frag_off & ~DONT_FRAGMENT || header[0] != DATA)
		return XDP_PASS;
	__u16 size = be16(ip->tot_len), length = be16(udp->len);
	if ((void *)ip + size > end || length + sizeof(*ip) != size)
		return XDP_PASS;
	if (length < sizeof(*udp) + HEADER || length > sizeof(*udp) + MAX_DATAGRAM)
		return XDP_PASS;

	__u32 slot = be32(header[1]), place = slot & PLACE, zero = 0;
	struct pair *pair = map_lookup(&pairs, &slot);
	struct spent *count = map_lookup(&spent, &place);
	struct totals *total = map_lookup(&totals, &zero);
	if (!pair || !count || !total)
		return XDP_PASS;
	// As in user space, side A is asked first.
	struct leg *from = &pair->legs[0], *to = &pair->legs[1];
	__u64 *sent = &count->bytes[0], *limit = &pair->limit[0];
	if (from->peer != ip->saddr || from->peer_port != udp->source) {
		from = &pair->legs[1], to = &pair->legs[0];
		sent = &count->bytes[1], limit = &pair->limit[1];
		if (from->peer != ip->saddr || from->peer_port != udp->source)
			return XDP_PASS;
	}
	if (from->local != ip->daddr || from->local_port != udp->dest)
		return XDP_PASS;

	struct { __be32 saddr, daddr; __be16 source, dest; } old = { ip->saddr, ip->daddr, udp->source, udp->dest }, new;
	struct bpf_fib_lookup fib = { .family = AF_INET, .l4_protocol = IPPROTO_UDP, .ifindex = ctx->ingress_ifindex };
	__u64 now = ktime(), datagram = length - sizeof(*udp);

	lock(&pair->lock);
	new.saddr = to->local, new.daddr = to->peer, new.source = to->local_port, new.dest = to->peer_port;
	__builtin_memcpy(from->mac, eth->h_source, ETH_ALEN);
	from->known = ctx->ingress_ifindex;
	__u32 known = to->known;
	__builtin_memcpy(fib.dmac, to->mac, ETH_ALEN);
	unlock(&pair->lock);

	__u8 learned[ETH_ALEN];
	__builtin_memcpy(learned, fib.dmac, ETH_ALEN);
	fib.tot_len = size;
	fib.sport = new.source, fib.dport = new.dest;
	fib.ipv4_src = new.saddr, fib.ipv4_dst = new.daddr;
	switch (fib_lookup(ctx, &fib, sizeof(fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		if (fib.ifindex != ctx->ingress_ifindex)
			return XDP_PASS;
		break;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
		if (known != ctx->ingress_ifindex)
			return XDP_PASS;
		__builtin_memcpy(fib.dmac, learned, ETH_ALEN);
		__builtin_memcpy(fib.smac, eth->h_dest, ETH_ALEN);
		break;
	default:
		return XDP_PASS;
	}

	lock(&pair->lock);
	int granted = *sent + datagram <= *limit && charge(pair, now, datagram);
	if (granted)
		*sent += datagram;
	unlock(&pair->lock);
	if (!granted)
		return XDP_PASS;

	__builtin_memcpy(eth->h_source, fib.smac, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, fib.dmac, ETH_ALEN);
	ip->tos = 0, ip->id = 0, ip->frag_off = DONT_FRAGMENT, ip->ttl = TTL, ip->check = 0;
	ip->saddr = new.saddr, ip->daddr = new.daddr;
	udp->source = new.source, udp->dest = new.dest;
	ip->check = fold(csum_diff(0, 0, ip, sizeof(*ip), 0));
	if (udp->check) {
		__u16 check = fold(csum_diff(&old, sizeof(old), &new, sizeof(new), (__u16)~udp->check));
		udp->check = check ? check : 0xffff;
	}
	total->packets++;
	total->bytes += datagram;
	return XDP_TX;
}

char _license[] SEC("license") = "Dual MIT/GPL";
