// Counts the words of what is posted to it. The `fetch` event is all that a handler needs.
addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const path = new URL(request.url).pathname;
  if (request.method !== "POST") {
    return new Response(`Hello from JavaScript at ${path}\n`, {
      headers: { "content-type": "text/plain" },
    });
  }
  const text = await request.text();
  const words = text.split(/[ \t\r\n]+/).filter(Boolean).length;
  return new Response(JSON.stringify({ words }), {
    headers: { "content-type": "application/json" },
  });
}
