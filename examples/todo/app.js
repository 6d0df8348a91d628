// Tasks in a database, which the operator chooses: SQLite on the node, or PostgreSQL.
import { Connection } from "realm:cloud/sql@0.1.0";

const text = (value) => ({ tag: "text", val: value });
const integer = (value) => ({ tag: "integer", val: BigInt(value) });

addEventListener("fetch", (event) => event.respondWith(answer(event.request)));

async function answer(request) {
  const url = new URL(request.url);
  const id = url.pathname.match(/\/(\d+)$/)?.[1];
  try {
    const tasks = new Tasks();
    if (request.method === "GET") {
      return wantsPage(request) ? page(tasks.all()) : json(200, tasks.all());
    }
    if (request.method === "POST" && !id) {
      const what = await said(request);
      return what ? json(201, { id: tasks.add(what) }) : json(400, { error: "say what is to be done" });
    }
    if (request.method === "PUT" && id) {
      return tasks.finish(id) ? json(200, { id: Number(id) }) : json(404, { error: "no such task" });
    }
    if (request.method === "DELETE" && id) {
      return tasks.forget(id) ? json(200, { id: Number(id) }) : json(404, { error: "no such task" });
    }
    return json(405, { error: "GET, POST, PUT /ID, DELETE /ID" });
  } catch (error) {
    // What the database says: `{tag: "unavailable"}`, `{tag: "database", val: {code, message}}`, ..
    const why = error.payload ?? { tag: String(error) };
    return json(why.tag === "unavailable" ? 503 : 500, { error: why.tag });
  }
}

class Tasks {
  constructor() {
    this.database = Connection.open("default");
    this.database.execute(
      "CREATE TABLE IF NOT EXISTS tasks (id BIGINT PRIMARY KEY, what TEXT NOT NULL, done BOOLEAN NOT NULL)",
      [],
    );
  }

  all() {
    const rows = this.database.query("SELECT id, what, done FROM tasks ORDER BY id", []);
    const found = [];
    for (let page = rows.read(); page.length > 0; page = rows.read()) {
      for (const [id, what, done] of page) {
        found.push({ id: Number(id.val), what: what.val, done: done.val });
      }
    }
    return found;
  }

  // The next number, and the task of that number: others may be about to take the same one.
  add(what) {
    for (;;) {
      try {
        this.database.begin();
        const rows = this.database.query("SELECT COALESCE(MAX(id), 0) + 1 FROM tasks", []);
        const id = Number(rows.next()[0].val);
        this.database.execute("INSERT INTO tasks VALUES ($1, $2, FALSE)", [integer(id), text(what)]);
        this.database.commit();
        return id;
      } catch (error) {
        this.database.rollBack();
        if (error.payload?.tag !== "conflict" && error.payload?.val?.code !== "23505") throw error;
      }
    }
  }

  finish(id) {
    return this.database.execute("UPDATE tasks SET done = TRUE WHERE id = $1", [integer(id)]) > 0n;
  }

  forget(id) {
    return this.database.execute("DELETE FROM tasks WHERE id = $1", [integer(id)]) > 0n;
  }
}

async function said(request) {
  const body = await request.text();
  const isForm = request.headers.get("content-type")?.startsWith("application/x-www-form-urlencoded");
  const what = isForm && body.startsWith("what=") ? new URLSearchParams(body).get("what") : body;
  return what.trim().slice(0, 1000);
}

function wantsPage(request) {
  return request.headers.get("accept")?.includes("text/html");
}

function json(status, value) {
  return new Response(JSON.stringify(value) + "\n", {
    status,
    headers: { "content-type": "application/json" },
  });
}

function page(tasks) {
  const escaped = (words) => words.replace(/[&<>"]/g, (mark) => `&#${mark.charCodeAt(0)};`);
  const items = tasks.map(({ what, done }) => `<li>${done ? "<s>" : ""}${escaped(what)}${done ? "</s>" : ""}</li>`);
  const html = `<!doctype html><title>To do</title><h1>To do</h1><ol>${items.join("")}</ol>
<form method="post" onsubmit="event.preventDefault(); fetch('', {method: 'POST', body: this.what.value}).then(() => location.reload())">
<input name="what" placeholder="What is to be done?"> <button>Add</button></form>`;
  return new Response(html, { headers: { "content-type": "text/html; charset=utf-8" } });
}
