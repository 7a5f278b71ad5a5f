const [form, status, answer, player, curve, heat] = ["video", "status", "answer", "player", "curve", "heat"].map((id) =>
  document.getElementById(id),
);
const input = form.querySelector("input");
const example = document.querySelector("#example");
let shown; // the answer for the video in the player

input.addEventListener("change", () => input.files[0] && predict(input.files[0], input.files[0].name));
example.addEventListener("click", async () => predict(await (await fetch("page/example.mp4")).blob(), "the example"));
player.addEventListener("error", () => (player.hidden = true)); // a format that this browser does not play
curve.addEventListener("click", (event) => {
  const box = curve.getBoundingClientRect();
  const share = ((event.clientX - box.left) / box.width - shown.left) / (shown.right - shown.left);
  goTo(Math.min(1, Math.max(0, share)) * (shown.frames - 1));
});

async function predict(file, name) {
  answer.hidden = true;
  showStatus(`Reading ${name} …`);
  input.disabled = example.disabled = true;
  try {
    shown = await predictionsOf(file);
    show(file);
    showStatus(name);
  } catch (error) {
    showStatus(error instanceof TypeError ? "The program that serves this page does not answer." : error.message, true);
  }
  input.disabled = example.disabled = false;
  input.value = ""; // so that the same file can be dropped again
}

function showStatus(text, bad = false) {
  status.textContent = text;
  status.className = bad ? "bad" : "";
  status.hidden = false;
}

async function predictionsOf(file) {
  const megabytes = Number(form.dataset.megabytes);
  if (file.size > megabytes * 2 ** 20) throw new Error(`This file cannot be shown: it is larger than ${megabytes} MB.`);
  const reply = await fetch(`predictions?width=${form.clientWidth}`, { method: "POST", body: file });
  if (!reply.ok) throw new Error(await reply.text());
  return reply.json();
}

function show(file) {
  URL.revokeObjectURL(player.src);
  player.hidden = false;
  player.src = URL.createObjectURL(file);
  document.querySelector("#doubt").hidden = !shown.unsure;
  answer.className = shown.unsure ? "unsure" : "";
  document.querySelector("#classes").replaceChildren(...shown.classes.map(bar));
  curve.querySelector("img").src = shown.curve;
  document.querySelector("#scale").src = shown.bar;
  document.querySelector("#strongest").textContent = shown.strongest;
  heat.replaceChildren(...shown.cells.map(cell));
  answer.hidden = false;
  moveTo(0);
  requestAnimationFrame(follow);
}

function bar({ name, probability }) {
  const label = document.createElement("label");
  const share = document.createElement("progress");
  share.value = probability;
  label.append(`${(100 * probability).toFixed(1)} % ${name}`, share);
  return label;
}

function cell({ frame, caption, picture, heated }) {
  const button = document.createElement("button");
  button.append(caption, ...[picture, heated].map((url) => Object.assign(new Image(), { src: url, alt: "" })));
  button.addEventListener("click", () => goTo(frame));
  return button;
}

function follow() {
  if (answer.hidden) return;
  if (!player.paused || player.seeking) moveTo((player.currentTime / player.duration) * (shown.frames - 1) || 0);
  requestAnimationFrame(follow);
}

function goTo(frame) {
  if (player.duration) player.currentTime = (frame / Math.max(1, shown.frames - 1)) * player.duration;
  moveTo(frame);
}

function moveTo(frame) {
  const share = frame / Math.max(1, shown.frames - 1);
  curve.querySelector(".cursor").style.left = `${100 * (shown.left + share * (shown.right - shown.left))}%`;
  const distances = shown.cells.map((one) => Math.abs(one.frame - frame));
  const nearest = distances.indexOf(Math.min(...distances));
  [...heat.children].forEach((button, place) => button.setAttribute("aria-current", place === nearest));
}
