"""Visual question answering: what is asked in words, and what a network pools of the picture, to an answer.

    data = vqa.load("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json")
    model = vqa.fit(data, network, config=config)
    answer = model.answer("kitchen.jpg", "What color is the fridge?")
    print(answer.text, answer.probability, answer.words)

questions  VQA's JSON and CSV to questions
accuracy   how answers are compared
settings   the options of `fit`
inputs     bags of words, and features of pictures
fitting    `fit`: questions and a network to a model
model      `VQA`: answers, their maps, and what each word adds to them
figures    picture, map and words side by side
"""

from typing import TYPE_CHECKING

from fastcam._lazy import lazy

if TYPE_CHECKING:
    from fastcam.vqa.accuracy import Accuracy, accuracy, normal, score, write_results
    from fastcam.vqa.figures import figure
    from fastcam.vqa.fitting import fit
    from fastcam.vqa.model import VQA, Answer
    from fastcam.vqa.questions import Question, Questions, load, words_of
    from fastcam.vqa.settings import VQASettings

# Imported when they are first used: the command line reads the options without waiting for torch.
_HOMES = {
    "VQA": "model",
    "Accuracy": "accuracy",
    "Answer": "model",
    "Question": "questions",
    "Questions": "questions",
    "VQASettings": "settings",
    "accuracy": "accuracy",
    "figure": "figures",
    "fit": "fitting",
    "load": "questions",
    "normal": "accuracy",
    "score": "accuracy",
    "words_of": "questions",
    "write_results": "accuracy",
}

__all__ = [
    "VQA",
    "Accuracy",
    "Answer",
    "Question",
    "Questions",
    "VQASettings",
    "accuracy",
    "figure",
    "fit",
    "load",
    "normal",
    "score",
    "words_of",
    "write_results",
]

__getattr__ = lazy(__name__, _HOMES)
