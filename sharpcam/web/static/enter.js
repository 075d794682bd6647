// Gives the code of the one-time link for a cookie, and goes on to the page.

const told = document.getElementById("told");

async function enter() {
  const code = location.hash.slice(1);
  history.replaceState(null, "", location.pathname); // it is worth nothing from now on, but nobody needs to see it
  if (!code) {
    told.textContent = "Run sharpcam ui in a terminal: it opens this page.";
    return;
  }
  const response = await fetch("enter", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-SharpCam": "1" },
    body: JSON.stringify({ code }),
  });
  const answer = await response.json();
  if (response.ok) location.replace(answer.path);
  else told.textContent = `Not opened: ${answer.error}. Run sharpcam ui again for a new link.`;
}

function start() {
  enter().catch(() => { told.textContent = "SharpCam does not answer. Run sharpcam ui again."; });
}

addEventListener("hashchange", start); // a new link in the same tab loads nothing anew
start();
