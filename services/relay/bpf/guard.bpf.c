// SPDX-License-Identifier: Apache-2.0 OR MIT
// Keeps room in a worker's socket for proven legs while more arrives than the worker can look at.
//
// It decides before a datagram is queued, and only while the worker says that it is pressed. What a proven leg sends passes, up to
// twice the pair's rate; of what anybody may send passes what the worker can spare: so many joins, questions of STUN and datagrams
// of strangers in each window of 134 ms, and of the first two not more than a share from one source. The worker then decides as
// ever: what passes here is no more true than it was.
//
// Datagrams that arrive as one piece (GRO, or GSO within a host) are judged by the first and count as many.
//
// A leg is known by a keyed mark of its address and slot, which the worker puts at the slot's place. Windows are counted without a
// lock; counts that race are off by a few.
//
// Built by `build`; the object stands beside this file, so that nobody needs clang.
#include "bpf.h"
#include <linux/if_ether.h>
#include <linux/udp.h>

#define DATA 0xb0
#define JOIN 0xb3
#define PING 0xb6
#define FANOUT 0xb9
#define JOIN_FIRST 0xba
#define ASK 0xbb
#define WHICH 0xbc
#define STUN 0xc0
#define SOURCES 1024
// A window of 2^27 ns, and what may pass in it of each kind.
#define WINDOW 27
#define STRANGERS 128
#define JOINS 1024
#define QUESTIONS 512
#define ONE_SOURCE 128

static long (*const load)(const void *skb, __u32 at, void *to, __u32 size) = (void *)BPF_FUNC_skb_load_bytes;
static long (*const load_from)(const void *skb, __u32 at, void *to, __u32 size, __u32 start) = (void *)BPF_FUNC_skb_load_bytes_relative;

// Why datagrams did not pass: where it is counted in `dropped`.
enum { STRANGER, JOINER, QUESTION, OVER_RATE };

struct rules {
	__u64 pressed;
	// Of the marks.
	__u64 secret[2];
	// The lowest bits of a slot number that are the worker.
	__u32 worker_bits, unused;
};

// `window` counts the bytes that passed in a window; `most` bytes may.
struct place {
	__u64 marks[2];
	__u64 window;
	__u64 most;
};

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[1];
	__u32 *key;
	struct rules *value;
} rules SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[65536];
	__u32 *key;
	struct place *value;
} places SEC(".maps");

// By kind, then by source.
struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[3 + SOURCES];
	__u32 *key;
	__u64 *value;
} windows SEC(".maps");

struct {
	int (*type)[BPF_MAP_TYPE_ARRAY];
	int (*max_entries)[4];
	__u32 *key;
	__u64 *value;
} dropped SEC(".maps");

struct source {
	__u64 high, low;
	__u16 port;
};

INLINE __u64 mixed(__u64 value)
{
	value *= 0x9e3779b97f4a7c15ull;
	return value ^ value >> 32;
}

// Counts `amount` in the window of now; 0 when that would be more than `most`. The number of the window is above the count.
INLINE int fits(__u64 *window, __u64 amount, __u64 most)
{
	__u64 now = ktime() >> WINDOW << 32, counted = *window;

	if (counted >> 32 << 32 != now) {
		*window = now | amount;
		return amount <= most;
	}
	if ((counted & 0xffffffff) + amount > most)
		return 0;
	__sync_fetch_and_add(window, amount);
	return 1;
}

// The size of one stands there also where their number does not.
INLINE __u64 datagrams(const struct __sk_buff *skb)
{
	return skb->gso_size ? 1 + (skb->len - 1) / skb->gso_size : 1;
}

INLINE int drop(const struct __sk_buff *skb, __u32 reason)
{
	__u64 *count = map_lookup(&dropped, &reason);

	if (count)
		__sync_fetch_and_add(count, datagrams(skb));
	return 0;
}

INLINE int spare(const struct __sk_buff *skb, __u32 kind, __u64 most)
{
	__u64 *window = map_lookup(&windows, &kind);

	return window && fits(window, datagrams(skb), most) ? -1 : drop(skb, kind);
}

INLINE int spare_for(const struct __sk_buff *skb, const struct rules *known, const struct source *source, __u32 kind, __u64 most)
{
	// A site: /24 of IPv4, which stands in `low`, /56 of IPv6.
	__u64 site = source->high ? source->high >> 8 : source->low >> 8;
	__u32 place = 3 + (mixed(mixed(site ^ known->secret[0]) ^ known->secret[1]) >> 16) % SOURCES;
	__u64 *window = map_lookup(&windows, &place);

	return window && fits(window, datagrams(skb), ONE_SOURCE) ? spare(skb, kind, most) : drop(skb, kind);
}

INLINE int read_source(const struct __sk_buff *skb, struct source *source)
{
	__u8 bytes[16];
	__be32 v4;

	if (load(skb, 0, &source->port, 2))
		return 0;
	source->port = be16(source->port);
	if (skb->protocol == be16(ETH_P_IP)) {
		if (load_from(skb, 12, &v4, 4, BPF_HDR_START_NET))
			return 0;
		source->high = 0, source->low = 0xffff00000000ull | be32(v4);
		return 1;
	}
	if (load_from(skb, 8, bytes, 16, BPF_HDR_START_NET))
		return 0;
	source->high = be64(*(__u64 *)bytes), source->low = be64(*(__u64 *)(bytes + 8));
	return 1;
}

SEC("socket")
int guard(struct __sk_buff *skb)
{
	struct { __u8 kind, unused[3]; __be32 slot; } header;
	struct source source;
	__u32 zero = 0;
	struct rules *known = map_lookup(&rules, &zero);

	if (!known || !known->pressed)
		return -1;
	if (load(skb, sizeof(struct udphdr), &header, sizeof(header)) || !read_source(skb, &source))
		return spare(skb, STRANGER, STRANGERS);

	switch (header.kind) {
	case JOIN:
	case JOIN_FIRST:
	case ASK:
		return spare_for(skb, known, &source, JOINER, JOINS);
	case DATA:
	case PING:
	case FANOUT:
	case WHICH:
		break;
	default:
		return header.kind & STUN ? spare(skb, STRANGER, STRANGERS) : spare_for(skb, known, &source, QUESTION, QUESTIONS);
	}

	__u32 slot = be32(header.slot), at = (slot & PLACE) >> known->worker_bits;
	struct place *place = map_lookup(&places, &at);
	if (!place)
		return spare(skb, STRANGER, STRANGERS);
	__u64 mark = mixed(known->secret[0] ^ source.high);
	mark = mixed(mark ^ source.low);
	mark = mixed(mark ^ known->secret[1] ^ ((__u64)slot << 16 | source.port)) | 1;
	if (place->marks[0] != mark && place->marks[1] != mark)
		return spare(skb, STRANGER, STRANGERS);
	return fits(&place->window, skb->len, place->most) ? -1 : drop(skb, OVER_RATE);
}

char _license[] SEC("license") = "Dual MIT/GPL";
