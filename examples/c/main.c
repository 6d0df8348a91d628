/* Counts the words of what is posted to it: a command behind a route is a CGI program, one run per
 * request. Reads as it comes, so that a body of any size takes no more memory than the buffer. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned long words_of(FILE *input) {
	static char buffer[64 * 1024];
	unsigned long words = 0;
	bool inside = false;
	size_t length;
	while ((length = fread(buffer, 1, sizeof buffer, input)) > 0) {
		for (size_t at = 0; at < length; at++) {
			bool space = memchr(" \t\r\n", buffer[at], 4) != NULL;
			words += !space && !inside;
			inside = !space;
		}
	}
	return words;
}

int main(void) {
	const char *method = getenv("REQUEST_METHOD");
	const char *path = getenv("PATH_INFO");
	if (method != NULL && strcmp(method, "POST") == 0) {
		printf("Content-Type: application/json\r\n\r\n{\"words\": %lu}", words_of(stdin));
	} else {
		printf("Content-Type: text/plain\r\n\r\nHello from C at %s\n", path != NULL ? path : "/");
	}
	return 0;
}
