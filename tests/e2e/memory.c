/* Holds src/memory.c to plain loops: every short size, sizes around each bound, every alignment, all overlaps, and
 * memory that ends with the last byte. Prints how many cases it tried; ends with 1 at the first that is wrong. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void *tested_memcpy(void *, const void *, size_t);
void *tested_memmove(void *, const void *, size_t);
void *tested_memset(void *, int, size_t);
int tested_memcmp(const void *, const void *, size_t);
int tested_bcmp(const void *, const void *, size_t);

#define PAGE 4096
#define ROOM (8 * PAGE)

static unsigned char *space(void)
{
	unsigned char *start = mmap(0, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (start == MAP_FAILED || mprotect(start + ROOM, PAGE, PROT_NONE))
		abort();
	return start;
}

static unsigned long cases;

static void expect(int is_right, const char *what, size_t bytes, long at)
{
	cases++;
	if (is_right)
		return;
	printf("%s of %zu bytes at %ld is wrong\n", what, bytes, at);
	exit(1);
}

static void fill(unsigned char *at, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++)
		at[i] = (unsigned char)((i * 131 + seed) ^ (i >> 7));
}

/* Whether two places of ROOM bytes are the same, by a loop. */
static int same(const unsigned char *left, const unsigned char *right)
{
	for (size_t i = 0; i < ROOM; i++)
		if (left[i] != right[i])
			return 0;
	return 1;
}

static int sign(int value) { return (value > 0) - (value < 0); }

static void copies(unsigned char *to, unsigned char *from, unsigned char *wanted, size_t bytes, size_t shift, size_t other)
{
	/* The last bytes that there are, moved down by as many as are asked for. */
	unsigned char *source = from + ROOM - bytes - other;
	size_t at = ROOM - bytes - shift;
	fill(to, ROOM, 7);
	fill(wanted, ROOM, 7);
	for (size_t i = 0; i < bytes; i++)
		wanted[at + i] = source[i];
	expect(tested_memcpy(to + at, source, bytes) == to + at && same(to, wanted), "memcpy", bytes, (long)shift);
	fill(to, ROOM, 7);
	expect(tested_memmove(to + at, source, bytes) == to + at && same(to, wanted), "memmove", bytes, (long)shift);
	fill(to, ROOM, 7);
	fill(wanted, ROOM, 7);
	for (size_t i = 0; i < bytes; i++)
		wanted[at + i] = (unsigned char)(200 + shift);
	/* Of the value only the lowest byte counts. */
	int value = (int)(200 + shift) | 0x7f00;
	expect(tested_memset(to + at, value, bytes) == to + at && same(to, wanted), "memset", bytes, (long)shift);
}

static void overlaps(unsigned char *to, unsigned char *wanted, size_t bytes, long by)
{
	size_t from = ROOM / 2 - bytes / 2;
	fill(to, ROOM, 3);
	fill(wanted, ROOM, 3);
	for (size_t i = 0; i < bytes; i++)
		wanted[(long)(from + i) + by] = to[from + i];
	tested_memmove(to + from + by, to + from, bytes);
	expect(same(to, wanted), "an overlapping memmove", bytes, by);
}

static void compares(unsigned char *one, unsigned char *two, size_t bytes, size_t shift)
{
	unsigned char *left = one + ROOM - bytes, *right = two + ROOM - bytes - shift;
	fill(left, bytes, 9);
	fill(right, bytes, 9);
	expect(!tested_memcmp(left, right, bytes) && !tested_bcmp(left, right, bytes), "memcmp of the same", bytes, 0);
	size_t step = bytes > 300 ? bytes / 61 : 1;
	for (size_t at = 0; at < bytes; at += step) {
		unsigned char was = right[at];
		/* What follows the first difference does not count, and bytes have no sign. */
		right[at] = (unsigned char)(was + 128);
		unsigned char behind = at + 1 < bytes ? right[at + 1] : 0;
		if (at + 1 < bytes)
			right[at + 1] = (unsigned char)~behind;
		int wanted = left[at] < right[at] ? -1 : 1;
		expect(sign(tested_memcmp(left, right, bytes)) == wanted, "memcmp", bytes, (long)at);
		expect(tested_bcmp(left, right, bytes) != 0, "bcmp", bytes, (long)at);
		right[at] = was;
		if (at + 1 < bytes)
			right[at + 1] = behind;
	}
}

int main(void)
{
	unsigned char *to = space(), *from = space(), *wanted = space();
	static const size_t around[] = {512, 1024, 2048, 4096, 10000};
	size_t sizes[400], count = 0;
	for (size_t bytes = 0; bytes <= 300; bytes++)
		sizes[count++] = bytes;
	for (size_t i = 0; i < sizeof around / sizeof *around; i++)
		for (size_t bytes = around[i] - 3; bytes <= around[i] + 3; bytes++)
			sizes[count++] = bytes;
	for (size_t i = 0; i < count; i++) {
		size_t bytes = sizes[i];
		fill(from, ROOM, 1);
		for (size_t shift = 0; shift < 16; shift++) {
			copies(to, from, wanted, bytes, shift, 0);
			copies(to, from, wanted, bytes, 0, shift);
			compares(to, wanted, bytes, shift);
		}
		static const long by[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 129, 500, 2047, 2049, 4000};
		for (size_t j = 0; j < sizeof by / sizeof *by; j++) {
			overlaps(to, wanted, bytes, by[j]);
			overlaps(to, wanted, bytes, -by[j]);
		}
		overlaps(to, wanted, bytes, 0);
	}
	printf("%lu cases\n", cases);
	return 0;
}
