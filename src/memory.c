/* memcpy, memmove, memset, memcmp and bcmp for the static program on x86-64, in place of musl's: those start a
 * string instruction for a copy of twenty bytes, which takes longer than the copy, and compare byte by byte. Small
 * sizes are most of what a request asks for; large ones are left to the string instructions, as musl does.
 *
 * Only SSE2, which every x86-64 has. `tests/e2e/memory.rs` compares each with plain loops, under the names that
 * `NAME` gives them there. Compiled without builtins, or a loop here became a call of itself.
 */

#include <stddef.h>
#include <stdint.h>

#ifndef NAME
#define NAME(name) name
#endif

/* Unaligned, and of whatever type the bytes are. */
typedef uint16_t two __attribute__((aligned(1), may_alias));
typedef uint32_t four __attribute__((aligned(1), may_alias));
typedef uint64_t eight __attribute__((aligned(1), may_alias));
typedef char sixteen __attribute__((vector_size(16), aligned(1), may_alias));

/* Bytes from which on a string instruction is worth its start. */
#define COPY_BY_STRING_MIN 2048
#define SET_BY_STRING_MIN 1024

#define AT(type, address) (*(type *)(address))

/* At most 128 bytes: all of them are read before the first is written, so they may overlap. */
static inline void copy_short(char *to, const char *from, size_t bytes)
{
	if (bytes >= 16) {
		const char *from_end = from + bytes;
		char *to_end = to + bytes;
		sixteen first = AT(sixteen, from), last = AT(sixteen, from_end - 16);
		if (bytes > 32) {
			sixteen second = AT(sixteen, from + 16), before = AT(sixteen, from_end - 32);
			if (bytes > 64) {
				sixteen a = AT(sixteen, from + 32), b = AT(sixteen, from + 48);
				sixteen c = AT(sixteen, from_end - 64), d = AT(sixteen, from_end - 48);
				AT(sixteen, to + 32) = a;
				AT(sixteen, to + 48) = b;
				AT(sixteen, to_end - 64) = c;
				AT(sixteen, to_end - 48) = d;
			}
			AT(sixteen, to + 16) = second;
			AT(sixteen, to_end - 32) = before;
		}
		AT(sixteen, to) = first;
		AT(sixteen, to_end - 16) = last;
	} else if (bytes >= 8) {
		eight first = AT(eight, from), last = AT(eight, from + bytes - 8);
		AT(eight, to) = first;
		AT(eight, to + bytes - 8) = last;
	} else if (bytes >= 4) {
		four first = AT(four, from), last = AT(four, from + bytes - 4);
		AT(four, to) = first;
		AT(four, to + bytes - 4) = last;
	} else if (bytes >= 2) {
		two first = AT(two, from), last = AT(two, from + bytes - 2);
		AT(two, to) = first;
		AT(two, to + bytes - 2) = last;
	} else if (bytes) {
		*to = *from;
	}
}

/* 64 bytes, all of them read before the first is written. */
static inline void copy_64(char *to, const char *from)
{
	sixteen a = AT(sixteen, from), b = AT(sixteen, from + 16);
	sixteen c = AT(sixteen, from + 32), d = AT(sixteen, from + 48);
	AT(sixteen, to) = a;
	AT(sixteen, to + 16) = b;
	AT(sixteen, to + 32) = c;
	AT(sixteen, to + 48) = d;
}

/* More than 64 bytes, from the first on: right where `to` lies below `from`, or apart from it. */
static void copy_up(char *to, const char *from, size_t bytes)
{
	const char *from_end = from + bytes;
	char *to_end = to + bytes;
	sixteen a = AT(sixteen, from_end - 64), b = AT(sixteen, from_end - 48);
	sixteen c = AT(sixteen, from_end - 32), d = AT(sixteen, from_end - 16);
	for (; bytes > 64; bytes -= 64, to += 64, from += 64)
		copy_64(to, from);
	AT(sixteen, to_end - 64) = a;
	AT(sixteen, to_end - 48) = b;
	AT(sixteen, to_end - 32) = c;
	AT(sixteen, to_end - 16) = d;
}

/* The same from the last on, where `to` lies above `from`. */
static void copy_down(char *to, const char *from, size_t bytes)
{
	char *first = to;
	sixteen a = AT(sixteen, from), b = AT(sixteen, from + 16);
	sixteen c = AT(sixteen, from + 32), d = AT(sixteen, from + 48);
	from += bytes;
	to += bytes;
	for (; bytes > 64; bytes -= 64) {
		from -= 64;
		to -= 64;
		copy_64(to, from);
	}
	AT(sixteen, first) = a;
	AT(sixteen, first + 16) = b;
	AT(sixteen, first + 32) = c;
	AT(sixteen, first + 48) = d;
}

/* Many bytes, which do not overlap; those that are written lie at a multiple of 16 then. */
static void copy_by_string(char *to, const char *from, size_t bytes)
{
	size_t skip = 16 - ((uintptr_t)to & 15);
	AT(sixteen, to) = AT(sixteen, from);
	AT(sixteen, to + bytes - 16) = AT(sixteen, from + bytes - 16);
	to += skip;
	from += skip;
	size_t words = (bytes - skip) / 8;
	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(words) : : "memory");
}

void *NAME(memmove)(void *to, const void *from, size_t bytes)
{
	if (bytes <= 128) {
		copy_short(to, from, bytes);
		return to;
	}
	size_t above = (uintptr_t)to - (uintptr_t)from;
	size_t below = (uintptr_t)from - (uintptr_t)to;
	if (above < bytes)
		copy_down(to, from, bytes);
	else if (below < bytes || bytes < COPY_BY_STRING_MIN)
		copy_up(to, from, bytes);
	else
		copy_by_string(to, from, bytes);
	return to;
}

void *NAME(memcpy)(void *restrict to, const void *restrict from, size_t bytes)
{
	if (bytes <= 128)
		copy_short(to, from, bytes);
	else if (bytes < COPY_BY_STRING_MIN)
		copy_up(to, from, bytes);
	else
		copy_by_string(to, from, bytes);
	return to;
}

void *NAME(memset)(void *to, int byte, size_t bytes)
{
	char *start = to, *end = start + bytes;
	uint64_t word = 0x0101010101010101 * (uint64_t)(unsigned char)byte;
	if (bytes < 16) {
		if (bytes >= 8) {
			AT(eight, start) = word;
			AT(eight, end - 8) = word;
		} else if (bytes >= 4) {
			AT(four, start) = (uint32_t)word;
			AT(four, end - 4) = (uint32_t)word;
		} else if (bytes >= 2) {
			AT(two, start) = (uint16_t)word;
			AT(two, end - 2) = (uint16_t)word;
		} else if (bytes) {
			*start = (char)word;
		}
		return to;
	}
	char c = (char)word;
	sixteen all = {c, c, c, c, c, c, c, c, c, c, c, c, c, c, c, c};
	AT(sixteen, start) = all;
	AT(sixteen, end - 16) = all;
	if (bytes >= SET_BY_STRING_MIN) {
		start += 16 - ((uintptr_t)start & 15);
		size_t words = (size_t)(end - start) / 8;
		__asm__ volatile("rep stosq" : "+D"(start), "+c"(words) : "a"(word) : "memory");
		return to;
	}
	for (start += 16; end - start > 16; start += 16)
		AT(sixteen, start) = all;
	return to;
}

/* The order of the first byte in which two words differ; 0: in none. */
static inline int order(uint64_t left, uint64_t right)
{
	if (left == right)
		return 0;
	return __builtin_bswap64(left) < __builtin_bswap64(right) ? -1 : 1;
}

/* The same of sixteen bytes. */
static inline int order_sixteen(const char *left, const char *right)
{
	sixteen equal = (sixteen)(AT(sixteen, left) == AT(sixteen, right));
	unsigned mask = (unsigned)__builtin_ia32_pmovmskb128(equal) ^ 0xffff;
	if (!mask)
		return 0;
	unsigned at = (unsigned)__builtin_ctz(mask);
	return (int)(unsigned char)left[at] - (int)(unsigned char)right[at];
}

int NAME(memcmp)(const void *one, const void *other, size_t bytes)
{
	const char *left = one, *right = other;
	int said;
	if (bytes >= 16) {
		const char *left_last = left + bytes - 16, *right_last = right + bytes - 16;
		for (; left < left_last; left += 16, right += 16) {
			said = order_sixteen(left, right);
			if (said)
				return said;
		}
		return order_sixteen(left_last, right_last);
	}
	if (bytes >= 8) {
		said = order(AT(eight, left), AT(eight, right));
		return said ? said : order(AT(eight, left + bytes - 8), AT(eight, right + bytes - 8));
	}
	if (bytes >= 4) {
		said = order(AT(four, left), AT(four, right));
		return said ? said : order(AT(four, left + bytes - 4), AT(four, right + bytes - 4));
	}
	for (; bytes; bytes--, left++, right++) {
		if (*left != *right)
			return (int)(unsigned char)*left - (int)(unsigned char)*right;
	}
	return 0;
}

int NAME(bcmp)(const void *one, const void *other, size_t bytes)
{
	return NAME(memcmp)(one, other, bytes);
}
