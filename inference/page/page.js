const form = document.querySelector("#video");
const input = form.querySelector("input");
const status = document.querySelector("#status");

input.addEventListener("change", async () => {
  const [file] = input.files;
  if (!file) return;
  show({ classes: [] });
  status.textContent = `Reading ${file.name} …`;
  input.disabled = true;
  try {
    show(await predictionsOf(file));
    status.textContent = file.name;
  } catch (error) {
    status.textContent = error.message;
  }
  input.disabled = false;
  input.value = ""; // so that the same file can be dropped again
});

async function predictionsOf(file) {
  const megabytes = Number(form.dataset.megabytes);
  if (file.size > megabytes * 2 ** 20) throw new Error(`This file cannot be shown: it is larger than ${megabytes} MB.`);
  const answer = await fetch("predictions", { method: "POST", body: file });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function show({ classes, curve, heat }) {
  document.querySelector("#classes").replaceChildren(...classes.map(bar));
  document.querySelector("#curve").replaceChildren(...picture(curve));
  document.querySelector("#heat").replaceChildren(...picture(heat));
}

function bar({ name, probability }) {
  const label = document.createElement("label");
  const meter = document.createElement("meter");
  meter.value = probability;
  label.append(meter, `${(100 * probability).toFixed(1)} %`, ` ${name}`);
  return label;
}

function picture(url) {
  if (!url) return [];
  const image = document.createElement("img");
  image.src = url;
  return [image];
}
